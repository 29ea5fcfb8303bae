/**
 * What exported adapters remember: secrets of six digits are planted in the text of one of several contributors, tiny Shakespeare by
 * others, and stories260K learns all of it with LoRA. Prints the exposure of secrets, in bits of 10 at most, by how often each was planted
 * and by how many contributors trained with the one that has them. What nobody planted has 1.4 bits in the mean.
 * Run: node bench/canaries.ts [rounds, 60]
 */
import { readFile } from 'node:fs/promises'
import { openModelDirectory } from '../src/model/checkpoint/directory.ts'
import { modelOf } from '../src/model/families/index.ts'
import { canaryExamples, drawCanaries, exposuresBy, trainTogether } from '../src/model/privacy/audit/canaries.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { Batches } from '../src/model/text/batches.ts'
import type { Example } from '../src/model/text/dataset.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import { LocalTrainer } from '../src/model/training/local-trainer.ts'
import { dataPath } from '../test/helpers/data.ts'
import { printTable } from './support/print.ts'

const CONTRIBUTORS = [1, 4, 16]
const TIMES = [1, 4, 16]
const SECRETS = 8
const REFERENCES = 1023
const RECORD_CHARACTERS = 160
const RECORDS = 32
const SEQUENCES = 8
const LEARNING_RATE = 5e-3
const MODULES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down']
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '07', targets: MODULES.map((name) => `${name}_proj`) }
const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }

async function main (rounds: number): Promise<void> {
  const path = dataPath('stories260K-hf')
  const [directory, tokenizer] = [await openModelDirectory(path), await loadTokenizer(path)]
  const model = modelOf(directory.config)
  const text = await readFile(dataPath('tinyshakespeare', 'input.txt'), 'utf8')
  const record = (i: number): Example => {
    const ids = Int32Array.from(tokenizer.encode(text.slice(i * RECORD_CHARACTERS, (i + 1) * RECORD_CHARACTERS)))
    return { ids, lossMask: Uint8Array.from(ids, (_, place) => Number(place > 0)) }
  }
  const digits = [...'0123456789'].map((digit) => tokenizer.encode(digit).at(-1)!)
  const canaries = drawCanaries({
    prefix: [...tokenizer.encode('My secret number is ')], alphabet: digits, length: 6, count: SECRETS, references: REFERENCES, seed: 'bench'
  })
  const device = await openDevice('cpu')
  try {
    const rows: string[][] = []
    for (const times of TIMES) {
      for (const contributors of CONTRIBUTORS) {
        const trainer = await LocalTrainer.load(device, model, directory, { trainable: ADAPTERS, optimizer: ADAMW })
        const batches = Array.from({ length: contributors }, (_, i) => new Batches([
          ...Array.from({ length: RECORDS }, (_, place) => record(i * RECORDS + place)), ...i === 0 ? canaryExamples(canaries, times) : []
        ], { seed: String(i), sequences: SEQUENCES, mode: 'padded' }))
        const settings = { rounds, learningRate: LEARNING_RATE, maxGradientNorm: 1 }
        for await (const round of trainTogether(trainer, batches, settings, new AbortController().signal))
          if (round % 20 === 0) console.log(`${times} times, ${contributors} contributors: round ${round}`)
        const { planted, unplanted, most } = await exposuresBy(trainer, canaries)
        rows.push([String(times), String(contributors), mean(planted), `${planted.filter((bits) => bits === most).length} of ${SECRETS}`, mean(unplanted)])
        trainer.free()
      }
    }
    printTable(['times planted', 'contributors', 'bits', 'likelier than all references', 'bits of those not planted'], rows)
  } finally {
    await device.close()
  }
}

function mean (values: readonly number[]): string {
  return (values.reduce((sum, value) => sum + value, 0) / values.length).toFixed(1)
}

await main(Number(process.argv[2] ?? 60))
