/**
 * What hidden states tell whoever receives them, by noise and by blocks before the cut: stories260K attacked by the oracle, on text that it
 * wrote itself, with itself as the prior. The clip is the 95th percentile of the norms of rows of random tokens, in sequences of 64.
 * Run: node bench/audit.ts [sequences, 24] [blocks before the cut, 1,2,3]
 */
import { openModelDirectory } from '../src/model/checkpoint/directory.ts'
import { modelOf, type Model } from '../src/model/families/index.ts'
import { LocalGenerator } from '../src/model/generation/local-generator.ts'
import { createSampler } from '../src/model/generation/sampling.ts'
import { CandidateStates } from '../src/model/privacy/audit/candidate-states.ts'
import { attackFigures, priorFigures, type Figure } from '../src/model/privacy/audit/figures.ts'
import { ModelPrior } from '../src/model/privacy/audit/model-prior.ts'
import { attackAsOracle, type AttackedSequence } from '../src/model/privacy/audit/oracle.ts'
import { Boundary } from '../src/model/privacy/boundary.ts'
import { SeededRandom } from '../src/model/random.ts'
import type { Device, DeviceTensor } from '../src/model/runtime/device.ts'
import { Scope } from '../src/model/runtime/scope.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { loadTokenizer } from '../src/model/text/load.ts'
import { loadClientModel, type ClientModel } from '../src/model/training/client-model.ts'
import { dataPath } from '../test/helpers/data.ts'
import { printTable } from './support/print.ts'

const TOKENS = 48
/** Each sequence is a window of a longer text, as packing makes them: it begins anywhere. */
const TEXT_TOKENS = 256
const NOISES = [0, 0.4, 0.8, 1.6, 12.8]
const CLIP_TOKENS = 64
const CLIP_SEQUENCES = 64
/** As `--clip auto` does. */
const QUANTILE = 0.95
const ADAPTERS = { r: 8, alpha: 16, dropout: 0, rslora: false, seed: '07', targets: ['q_proj'] }

async function main (count: number, cuts: readonly number[]): Promise<void> {
  const path = dataPath('stories260K-hf')
  const directory = await openModelDirectory(path)
  const model = modelOf(directory.config)
  const { bosId } = await loadTokenizer(path)
  const signal = new AbortController().signal
  const device = await openDevice('cpu')
  try {
    const sequences = await ownText(device, model, directory, { bos: bosId!, count })
    const rows: string[][] = []
    for (const inputBlocks of cuts) {
      const client = await loadClientModel(device, model, directory, { inputBlocks, outputBlocks: 1 }, ADAPTERS)
      const clip = await clipOf(device, client, model)
      const prior = await ModelPrior.load(device, path, model.vocabularySize)
      const attack = attackAsOracle({
        device,
        boundary: new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' }),
        rounding: 'fp32',
        states: await CandidateStates.open(client.weights, inputBlocks),
        isOwnBottom: true,
        compute: async (ids) => await rowsOf(client, ids),
        prior,
        clip,
        protections: NOISES.map((noise) => ({ clip, noise }))
      }, sequences, signal)
      let next = await attack.next()
      while (next.done !== true) next = await attack.next()
      const { priors, released } = next.value
      const { recovered, crossEntropy } = priorFigures(priors)
      for (const [i, noise] of NOISES.entries()) {
        const { alone, withPrior, hard, leak } = attackFigures(priors, released[i]!)
        rows.push([String(inputBlocks), String(noise), percent(alone), percent(withPrior), hard === null ? '-' : percent(hard), percent(leak)])
      }
      rows.push([String(inputBlocks), 'prior alone', '-', percent(recovered), `${crossEntropy.toFixed(3)} nats`, '0'])
      prior.free()
      client.weights.free()
    }
    printTable(['blocks', 'noise', 'alone', 'with the prior', 'of hard tokens', 'leak'], rows)
  } finally {
    await device.close()
  }
}

/** Windows of texts that the model writes at temperature 1, after BOS. */
async function ownText (
  device: Device,
  model: Model,
  directory: Awaited<ReturnType<typeof openModelDirectory>>,
  { bos, count }: { readonly bos: number, readonly count: number }
): Promise<AttackedSequence[]> {
  const generator = await LocalGenerator.load(device, model, directory)
  const random = new SeededRandom('audit/windows')
  const sequences: AttackedSequence[] = []
  for (let i = 0; i < count; i++) {
    const ids = [bos]
    const sampler = createSampler({ temperature: 1, seed: `audit/${i}` })
    for await (const id of generator.generate([bos], sampler, { maxTokens: TEXT_TOKENS - 1 })) ids.push(id)
    const from = random.below(TEXT_TOKENS - TOKENS + 1)
    const window = ids.slice(from, from + TOKENS)
    sequences.push({ ids: window, positions: window.slice(1).map((_, position) => position + 1) })
  }
  generator.free()
  return sequences
}

/** The first rows of a sequence are the longest: the shorter the sequences, the larger the clip. */
async function clipOf (device: Device, client: ClientModel, model: Model): Promise<number> {
  const random = new SeededRandom('audit/clip')
  const norms: number[] = []
  for (let i = 0; i < CLIP_SEQUENCES; i++) {
    using scope = new Scope(device)
    const ids = Array.from({ length: CLIP_TOKENS }, () => random.below(model.vocabularySize))
    const { data } = await device.download(scope.own(await rowsOf(client, ids)))
    const width = model.hiddenSize
    for (let row = 0; row < ids.length; row++) norms.push(Math.hypot(...(data as Float32Array).subarray(row * width, (row + 1) * width)))
  }
  return norms.sort((a, b) => a - b)[Math.floor(QUANTILE * (norms.length - 1))]!
}

async function rowsOf ({ bottom }: ClientModel, ids: readonly number[]): Promise<DeviceTensor> {
  return (await bottom.forward([[...ids]], { keepResiduals: false })).hidden
}

function percent ({ value, error }: Figure): string {
  return `${(100 * value).toFixed(1)} % ± ${(100 * error).toFixed(1)}`
}

await main(Number(process.argv[2] ?? 24), (process.argv[3] ?? '1,2,3').split(',').map(Number))
