import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf, type Model } from '../../src/model/families/index.ts'
import { CachedSpan } from '../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../src/model/generation/kv-cache.ts'
import { Embedding } from '../../src/model/layers/embedding.ts'
import { Head } from '../../src/model/layers/head.ts'
import type { WeightFormat } from '../../src/model/layers/weight-format.ts'
import type { ModelWeights } from '../../src/model/layers/weights.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { loadClientModel } from '../../src/model/training/client-model.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import { Optimizer } from '../../src/model/training/optimizer.ts'
import { Parameters } from '../../src/model/training/parameters.ts'
import { int32, type Tensor } from '../../src/tensor.ts'
import type { Sequences } from './shakespeare.ts'

/** A model, what it trains on, and what it is measured on. */
export interface Subject {
  readonly name: string
  readonly model: string
  readonly rounds: readonly Sequences[]
  readonly heldOut: Sequences
}

/** Mean cross-entropy of a token, as training and as generation compute it. */
export interface Losses {
  readonly training: number
  readonly generation: number
}

export interface Quality {
  readonly before: Losses
  readonly after: Losses
}

const ADAPTERS = {
  r: 8,
  alpha: 16,
  dropout: 0,
  rslora: false,
  seed: '07',
  targets: ['q', 'k', 'v', 'o', 'gate', 'up', 'down'].map((target) => `${target}_proj`)
}
const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
const LEARNING_RATE = 3e-3

/** Losses on texts of a model whose products are computed as the device's are. */
export async function measureLosses (device: Device, path: string, texts: Sequences): Promise<Losses> {
  const directory = await openModelDirectory(path)
  const model = modelOf(directory.config)
  const ends = await loadClientModel(device, model, directory, { inputBlocks: 0, outputBlocks: model.layers }, ADAPTERS)
  const trainer = new LocalTrainer(device, ends, await Optimizer.open(device, ADAMW), await Parameters.create(device, ends.weights.trained))
  let [lossSum, countedTokens] = [0, 0]
  for (const text of texts) {
    const loss = await trainer.evaluate(batchOf([text]))
    lossSum += loss.lossSum
    countedTokens += loss.countedTokens
  }
  const losses = { training: lossSum / countedTokens, generation: await generationLoss(ends.weights, model, texts) }
  trainer.free()
  return losses
}

/** Losses on the held-out text before and after a LoRA training over weights in a format. */
export async function measureQuality (device: Device, { model: path, rounds, heldOut }: Subject, format: WeightFormat): Promise<Quality> {
  const directory = await openModelDirectory(path)
  const model = modelOf(directory.config)
  const ends = await loadClientModel(device, model, directory, { inputBlocks: 0, outputBlocks: model.layers }, ADAPTERS, { format })
  const trainer = new LocalTrainer(device, ends, await Optimizer.open(device, ADAMW), await Parameters.create(device, ends.weights.trained))
  const losses = async (): Promise<Losses> => {
    const { lossSum, countedTokens } = await trainer.evaluate(batchOf(heldOut))
    return { training: lossSum / countedTokens, generation: await generationLoss(ends.weights, model, heldOut) }
  }
  const before = await losses()
  for (const sequences of rounds) await trainer.step([batchOf(sequences)], { learningRate: LEARNING_RATE, maxGradientNorm: 1 })
  const after = await losses()
  trainer.free()
  return { before, after }
}

function batchOf (sequences: Sequences): { ids: Sequences, targets: Sequences } {
  return { ids: sequences.map((ids) => ids.slice(0, -1)), targets: sequences.map((ids) => ids.slice(1)) }
}

/** The mean loss of sequences that pass as prompts do. */
async function generationLoss (weights: ModelWeights, model: Model, sequences: Sequences): Promise<number> {
  const { device } = weights
  const [embedding, head, blocks] = [await Embedding.open(weights), await Head.open(weights), new CachedSpan(weights)]
  const all = { first: 0, end: model.layers }
  let [lossSum, tokens] = [0, 0]
  for (const sequence of sequences) {
    const count = sequence.length - 1
    const cache = await SequenceCache.create(device, model, all, count)
    const calls = await blocks.forwardCalls({ output: 'hidden' }, [{ cache, count }], all)
    const last = await head.generationCall({ output: 'output' }, count, Array.from({ length: count }, (_, row) => row))
    const { logits } = await device.runSequence([embedding.call(int32([count], sequence.slice(0, -1))), ...calls, last])
    cache.free()
    lossSum += crossEntropy(logits as Tensor, sequence.slice(1))
    tokens += count
  }
  return lossSum / tokens
}

/** Of rows of logits, summed. */
function crossEntropy ({ shape, data }: Tensor, targets: readonly number[]): number {
  const vocabulary = shape[1] as number
  return targets.reduce((sum, target, row) => {
    const logits = (data as Float32Array).subarray(row * vocabulary, (row + 1) * vocabulary)
    const most = logits.reduce((a, b) => Math.max(a, b), -Infinity)
    return sum + most + Math.log(logits.reduce((all, logit) => all + Math.exp(logit - most), 0)) - (logits[target] as number)
  }, 0)
}
