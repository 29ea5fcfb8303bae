/**
 * What a server is still worth where words are withheld from it: one client with the first and the last block of stories260K trains on
 * text that the model itself wrote, so that a server is worth most here. Prints held-out losses in nats a token where capitalised words,
 * numbers or rare words are withheld, beside those without withheld words and of the client alone, for which the middle is skipped.
 * Run: node bench/withhold.ts [rounds, 30]
 */
import { openModelDirectory } from '../src/model/checkpoint/directory.ts'
import { modelOf } from '../src/model/families/index.ts'
import { parseWithholding } from '../src/model/privacy/withholding.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { Batches } from '../src/model/text/batches.ts'
import type { Example } from '../src/model/text/dataset.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import { WordMarker } from '../src/model/text/word-marker.ts'
import type { ClientProtection } from '../src/roles/charter-settings.ts'
import { dataPath } from '../test/helpers/data.ts'
import { SplitTrainer, type SplitTrainerOptions } from '../test/roles/client/training/split-trainer.ts'
import { printTable } from './support/print.ts'
import { sampledTexts } from './support/sampled-texts.ts'

const RULES = ['capitals', 'numbers', 'rare:0.5%'] as const
const HELD_OUT_TEXTS = 12
const TEXT_TOKENS = 256
/** Texts are cut into windows of so many tokens that are sent. */
const TOKENS = 64
const SEQUENCES = 16
const LEARNING_RATE = 2e-3
/** Tokens of the texts to those that are sent, at most: a text that is learnt twice is learnt by heart, and the held-out loss rises. */
const TOKENS_TO_SENT = 1.3
const MAX_GRADIENT_NORM = 1
const MODULES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down']
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '07', targets: MODULES.map((name) => `${name}_proj`) }
const UNPROTECTED: ClientProtection = { hidden: { clip: null, noise: 0 }, gradient: { clip: null, noise: 0 }, keepsStream: false }

async function main (rounds: number): Promise<void> {
  const path = dataPath('stories260K-hf')
  const [directory, tokenizer] = [await openModelDirectory(path), await loadTokenizer(path)]
  const model = modelOf(directory.config)
  const device = await openDevice('cpu', { threads: 1 })
  try {
    const count = HELD_OUT_TEXTS + Math.ceil(rounds * SEQUENCES * TOKENS * TOKENS_TO_SENT / TEXT_TOKENS)
    console.log(`${count} texts of ${TEXT_TOKENS} tokens, sampled from the model, ${HELD_OUT_TEXTS} of them held out`)
    const texts = await sampledTexts(device, model, directory, { bosId: tokenizer.bosId!, count, tokens: TEXT_TOKENS })
    console.log(`${rounds} rounds of ${SEQUENCES} x ${TOKENS} tokens, one block on either side with the client`)
    const lossOf = async (marked: readonly Example[], options: Pick<SplitTrainerOptions, 'isAlone'> = {}): Promise<number> => {
      const trainer = await SplitTrainer.load(device, {
        model,
        source: directory,
        adapters: ADAPTERS,
        protection: UNPROTECTED,
        tokens: TOKENS,
        sequences: SEQUENCES,
        data: marked.slice(HELD_OUT_TEXTS),
        ...options
      })
      for (let round = 0; round < rounds; round++) await trainer.step(LEARNING_RATE, MAX_GRADIENT_NORM)
      const measured = new Batches(marked.slice(0, HELD_OUT_TEXTS), {
        seed: '0', sequences: SEQUENCES, mode: 'packed', windowLength: TOKENS, ownLength: model.maxPositions, keepsUnsent: true
      })
      return await trainer.evaluate(measured)
    }
    const rows: string[][] = []
    const add = (...row: string[]): void => {
      rows.push(row)
      console.log(row.join(' '))
    }
    add('nothing', '', (await lossOf(texts)).toFixed(3))
    add('everything: client alone', '', (await lossOf(texts, { isAlone: true })).toFixed(3))
    for (const rule of RULES) {
      const marker = new WordMarker(tokenizer, await parseWithholding(rule, async () => await Promise.resolve('')))
      for (const { ids } of texts) marker.learn(ids)
      const marked = texts.map((example) => ({ ...example, withheld: marker.mark(example.ids) }))
      const { tokens, withheld } = marker.totals
      if (withheld === 0) continue
      add(rule, `${(100 * withheld / tokens).toFixed(1)}%`, (await lossOf(marked)).toFixed(3))
    }
    printTable(['withheld', 'of the tokens', 'loss'], rows)
  } finally {
    await device.close()
  }
}

await main(Number(process.argv[2] ?? 30))
