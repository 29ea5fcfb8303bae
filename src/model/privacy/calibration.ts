import type { Tensor } from '../../tensor.ts'
import type { Model } from '../families/index.ts'
import { Graph } from '../graph/graph.ts'
import { mul, reduceSum, sqrt } from '../graph/operators/index.ts'
import { program } from '../graph/program.ts'
import { sequencesOf, type HiddenStates } from '../layers/hidden-states.ts'
import type { WeightSource } from '../layers/weights.ts'
import { SeededRandom } from '../random.ts'
import { compiled } from '../runtime/compiled.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'
import { loadClientModel } from '../training/client-model.ts'
import { TrainableSpan } from '../training/trainable-span.ts'

/** Blocks before which rows leave a client: hidden rows before `hidden`, gradient rows before `gradient`. */
export interface Cuts {
  readonly hidden: readonly number[]
  readonly gradient: readonly number[]
}

/** A clip norm for each cut. */
export interface Clips {
  readonly hidden: Record<string, number>
  readonly gradient: Record<string, number>
}

const SEQUENCES = 4
const SEQUENCE_TOKENS = 128

/** The share of rows that the clip leaves as they are: the rest, above all the huge rows of first tokens, would cost everyone noise. */
const QUANTILE = 0.95

/** No adapters: they start as zero, and change no norm. */
const FROZEN = { r: 1, alpha: 1, dropout: 0, rslora: false, targets: [], seed: '' }

/**
 * Measures how long rows are at each cut of a model, on random tokens, so that no text is needed: the clip is a length that few rows
 * exceed. One block at a time is on the device, and for gradients the last blocks with the head.
 */
export async function calibrateClips (device: Device, model: Model, source: WeightSource, cuts: Cuts, signal: AbortSignal): Promise<Clips> {
  const random = new SeededRandom('midspan clip')
  const ids = Array.from({ length: SEQUENCES }, () => randomTokens(model, random))
  const targets = ids.map((sequence) => [...sequence.slice(1), random.below(model.vocabularySize)])
  const sequences = sequencesOf(model, ids)
  const clips: Clips = { hidden: {}, gradient: {} }

  const start = await loadClientModel(device, model, source, { inputBlocks: 0, outputBlocks: 0 }, FROZEN)
  let { hidden } = await start.bottom.forward(ids, { keepResiduals: false })
  start.weights.free()
  for (let block = 0; block <= model.layers; block++) {
    signal.throwIfAborted()
    if (cuts.hidden.includes(block)) clips.hidden[block] = await typicalNorm(device, hidden)
    if (cuts.gradient.includes(block))
      clips.gradient[block] = await gradientNorm(device, model, source, { hidden, ...sequences }, targets, block)
    if (block === model.layers) break
    const span = await TrainableSpan.load(device, model, source, { first: block, end: block + 1 }, FROZEN)
    const next = await span.forward({ hidden, ...sequences }, { keepResiduals: false })
    span.free()
    device.free(hidden)
    hidden = next.hidden
  }
  device.free(hidden)
  return clips
}

/** As many as a sequence has here. Where the model reads prompts in both directions, the first half is one. */
function randomTokens ({ maxPositions, vocabularySize, prompts }: Model, random: SeededRandom): number[] {
  const closing = prompts?.closing ?? []
  const count = Math.min(SEQUENCE_TOKENS, maxPositions) - closing.length
  const words = Array.from({ length: count }, () => {
    let id: number
    do id = random.below(vocabularySize); while (closing.includes(id))
    return id
  })
  return words.toSpliced(Math.ceil(count / 2), 0, ...closing)
}

async function gradientNorm (
  device: Device,
  model: Model,
  source: WeightSource,
  rows: HiddenStates,
  targets: number[][],
  block: number
): Promise<number> {
  const end = await loadClientModel(device, model, source, { inputBlocks: 0, outputBlocks: model.layers - block }, FROZEN)
  const { gradient, gradients } = await end.top.train(rows, targets)
  const norm = await typicalNorm(device, gradient)
  device.free(gradient, ...gradients.values())
  end.weights.free()
  return norm
}

/** The norm that the chosen share of rows [rows, hidden] stays below, rounded to three digits for people to read. */
async function typicalNorm (device: Device, rows: DeviceTensor): Promise<number> {
  const hidden = rows.shape[1] as number
  const executable = await compiled(device, `row-norms ${hidden}`, () => {
    const graph = new Graph()
    const input = graph.input('rows', 'float32', ['rows', hidden])
    graph.output('norms', sqrt(reduceSum(mul(input, input), [1])))
    return program('row-norms', graph)
  })
  const { norms } = await executable.run({ rows })
  const sorted = Float32Array.from((norms as Tensor).data as Float32Array).sort()
  return Number((sorted[Math.floor(QUANTILE * (sorted.length - 1))] as number).toPrecision(3))
}
