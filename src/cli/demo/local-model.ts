import { openModelDirectory } from '../../model/checkpoint/directory.ts'
import { modelOf, type Model } from '../../model/families/index.ts'
import { argmax } from '../../model/generation/sampling.ts'
import type { AdapterSettings } from '../../model/layers/lora.ts'
import type { Trainable } from '../../model/layers/trainable.ts'
import type { WeightSource } from '../../model/layers/weights.ts'
import type { Device } from '../../model/runtime/device.ts'
import { Scope } from '../../model/runtime/scope.ts'
import { Batches, type Cursor } from '../../model/text/batches.ts'
import { loadDataset } from '../../model/text/dataset.ts'
import { loadTokenizer } from '../../model/text/load.ts'
import type { Tokenizer } from '../../model/text/tokenizer.ts'
import { loadClientModel, type ClientModel } from '../../model/training/client-model.ts'
import { learningRateAt, type Schedule } from '../../model/training/learning-rate.ts'
import { LocalTrainer } from '../../model/training/local-trainer.ts'
import { Optimizer, type OptimizerSettings } from '../../model/training/optimizer.ts'
import { Parameters } from '../../model/training/parameters.ts'
import { question } from './corpus.ts'

/** What a federation's charter fixes about training, for doing the same on one machine. */
export interface Recipe {
  readonly adapters: AdapterSettings
  readonly optimizer: OptimizerSettings
  readonly learningRate: number
  readonly schedule: Schedule
  readonly maxGradientNorm: number
  readonly rounds: number
  /** Sequences that each data file gives to a round. */
  readonly sequences: number
}

/** A whole model on one machine, to train and to ask. */
export interface LocalModel {
  readonly ends: ClientModel
  readonly trainer: LocalTrainer
}

/** Answers end with a full stop, long before this many tokens. */
const maxAnswerTokens = 6

export async function loadLocalModel (
  device: Device,
  model: Model,
  source: WeightSource,
  trainable: Trainable,
  optimizer: OptimizerSettings
): Promise<LocalModel> {
  const ends = await loadClientModel(device, model, source, { inputBlocks: 0, outputBlocks: model.layers }, trainable)
  return {
    ends,
    trainer: new LocalTrainer(device, ends, await Optimizer.open(device, optimizer), await Parameters.create(device, ends.weights.trained))
  }
}

/** Fine-tunes on the union of data files, as a federation of their owners would, and answers the questions about `ailments`. */
export async function trainAndAsk (
  device: Device,
  directory: string,
  files: readonly string[],
  recipe: Recipe,
  ailments: readonly string[],
  signal: AbortSignal
): Promise<string[]> {
  const opened = await openModelDirectory(directory)
  const tokenizer = await loadTokenizer(directory)
  const { ends, trainer } = await loadLocalModel(device, modelOf(opened.config), opened, recipe.adapters, recipe.optimizer)
  try {
    const readers = await Promise.all(files.map(async (file) => await reader(file, tokenizer, recipe.sequences, signal)))
    for (let round = 0; round < recipe.rounds; round++) {
      signal.throwIfAborted()
      const batches = readers.map((next) => next())
      const union = { ids: batches.flatMap(({ ids }) => ids), targets: batches.flatMap(({ targets }) => targets) }
      await trainer.step([union], {
        learningRate: learningRateAt(recipe.schedule, recipe.learningRate, round),
        maxGradientNorm: recipe.maxGradientNorm
      })
    }
    return await greedyAnswers(ends, tokenizer, ailments)
  } finally {
    trainer.free()
  }
}

/** Returns the model's answers to the questions about `ailments`, all in one batch; always the likeliest token. */
export async function greedyAnswers ({ bottom, top }: ClientModel, tokenizer: Tokenizer, ailments: readonly string[]): Promise<string[]> {
  const prompts = ailments.map((ailment) => tokenizer.encode(question(ailment)))
  const sequences = prompts.map((ids) => [...ids])
  const isOpen = (ids: readonly number[]): boolean => !tokenizer.eosIds.includes(ids.at(-1)!)
  for (let step = 0; step < maxAnswerTokens && sequences.some(isOpen); step++) {
    const open = sequences.filter(isOpen)
    using scope = new Scope(top.span.device)
    const { hidden } = await bottom.forward(open, { keepResiduals: false })
    scope.own(hidden)
    const { data, shape } = await top.logits({ hidden, lengths: open.map(({ length }) => length) })
    const vocabulary = shape[1]!
    open.forEach((ids, i) => ids.push(argmax((data as Float32Array).subarray(i * vocabulary, (i + 1) * vocabulary))))
  }
  return sequences.map((ids, i) => tokenizer.decode(ids.slice(prompts[i]!.length)))
}

/** Returns a data file as an endless series of batches of single records. */
async function reader (file: string, tokenizer: Tokenizer, sequences: number, signal: AbortSignal) {
  const { examples } = await loadDataset(file, tokenizer, { lossOn: 'all' }, signal)
  const batches = new Batches(examples, { seed: '0', sequences, mode: 'padded' })
  let cursor: Cursor = { epoch: 0, index: 0 }
  return () => {
    const { batch, next } = batches.at(cursor)
    cursor = next
    return batch
  }
}
