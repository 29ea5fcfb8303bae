import { UsageError } from '../../../errors.ts'
import { openModelDirectory, type ModelDirectory } from '../../../model/checkpoint/directory.ts'
import { checkWeights, spanTensors } from '../../../model/families/index.ts'
import type { WeightSource } from '../../../model/layers/weights.ts'
import { Batches, type BatchOptions } from '../../../model/text/batches.ts'
import type { Example } from '../../../model/text/dataset.ts'
import { learningRateAt } from '../../../model/training/learning-rate.ts'
import type { Charter, Partition } from '../../../protocols/charter/schema.ts'
import { trainableOf, type ClientProtection } from '../../charter-settings.ts'
import type { ClientRuntime } from '../runtime.ts'
import { TrialTrainer, type TrialSettings } from './trial-trainer.ts'

/** One record in so many is held out where no data is given for that. */
const HELD_OUT_EVERY = 8

/** Held-out batches that a loss is measured on, at most. */
const HELD_OUT_BATCHES = 64

/** Without protection, rows leave as they are. */
export const UNPROTECTED: ClientProtection = { hidden: { clip: null, noise: 0 }, gradient: { clip: null, noise: 0 }, keepsStream: false }

/** What a trial learns and is measured on. */
export interface TrialText {
  readonly trained: Batches
  readonly heldOut: Batches
}

/** The text of trials. */
export interface TrialData {
  /** With the words withheld that the settings withhold. */
  readonly deployed: TrialText
  /** With no word withheld. */
  readonly plain: TrialText
}

/** Where a trial takes place. */
export interface TrialPlace {
  readonly charter: Charter
  readonly partition: Partition
  readonly runtime: Pick<ClientRuntime, 'device' | 'model' | 'directory' | 'clientModel'>
  /** The weights of the client's ends, where they are not those of its own directory. */
  readonly ends?: WeightSource
  readonly rounds: number
}

export interface TrialOptions extends TrialPlace, TrialData {
  readonly protection: ClientProtection
  /** The directory of the whole model, where there is one here. */
  readonly wholeModel: string | undefined
}

/** Losses of held-out data, in nats a token. */
export interface TrialLosses {
  readonly rounds: number
  readonly tokens: number
  readonly before?: number
  readonly unprotected?: number
  readonly deployed?: number
  readonly alone: number
}

export interface TrialProgress {
  readonly work: string
  readonly done: number
  readonly total: number
}

/** Splits examples into those that a trial learns and those that are held out; undefined where there are too few. */
export function splitExamples (examples: readonly Example[], batching: BatchOptions): TrialText | undefined {
  if (examples.length < HELD_OUT_EVERY) return undefined
  const isHeldOut = (_: Example, i: number): boolean => i % HELD_OUT_EVERY === HELD_OUT_EVERY - 1
  return {
    trained: new Batches(examples.filter((example, i) => !isHeldOut(example, i)), batching),
    heldOut: new Batches(examples.filter(isHeldOut), { ...batching, mode: 'padded', keepsUnsent: true })
  }
}

/** Returns examples of which nothing is withheld. */
export function withoutWithholding (examples: readonly Example[]): Example[] {
  return examples.map(({ ids, lossMask }) => ({ ids, lossMask }))
}

/**
 * Trains copies of the model on this machine, one after another, each from its first adapters and on the same text: by the client alone,
 * with the middle skipped, and, where the whole model is here, without protection and as the settings are. Yields how far it is.
 */
export async function * tryTrainings (options: TrialOptions, signal: AbortSignal): AsyncGenerator<TrialProgress, TrialLosses> {
  const { protection, rounds, deployed: text, plain } = options
  const middle = await openMiddle(options)
  const tokens = countTokens(plain.heldOut)
  const alone = yield * tryOne(options, { ...ALONE, text: plain }, signal)
  if (middle === undefined) return { rounds, tokens, alone: alone.after }
  const unprotected = yield * tryOne(options, { work: 'training without protection', middle, protection: UNPROTECTED, text: plain }, signal)
  const isBare = JSON.stringify(protection) === JSON.stringify(UNPROTECTED) && text === plain
  const deployed = isBare ? unprotected : yield * tryOne(options, { work: 'training as the settings are', middle, protection, text }, signal)
  return { rounds, tokens, before: unprotected.before, unprotected: unprotected.after, deployed: deployed.after, alone: alone.after }
}

/**
 * Opens the whole model's directory for the blocks that a client has not got; undefined where there is none. Throws UsageError for a
 * charter by which trials cannot begin.
 */
export async function openMiddle (
  { charter, runtime: { model }, partition: { inputBlocks, outputBlocks }, wholeModel }: Pick<TrialOptions, 'charter' | 'runtime' | 'partition' | 'wholeModel'>
): Promise<ModelDirectory | undefined> {
  if (wholeModel === undefined) return undefined
  const middle = await openModelDirectory(wholeModel)
  if (charter.adapters.initial !== undefined)
    throw new UsageError('this federation trains on from an adapter, which losses cannot be tried with yet', 'leave out --model')
  checkWeights(model, middle, spanTensors(model, { first: inputBlocks, end: model.layers - outputBlocks }))
  return middle
}

/** One training that is tried. */
export interface Trial extends Pick<TrialSettings, 'middle' | 'protection'> {
  /** Says what it is, for people. */
  readonly work: string
  readonly text: TrialText
}

/** The training of a client by itself. */
export const ALONE: Omit<Trial, 'text'> = { work: 'training of this client alone', middle: undefined, protection: UNPROTECTED }

/** Trains a copy of the model from its first adapters. Yields how far it is, and returns the losses before and after. */
export async function * tryOne (
  { charter, partition, runtime: { device, model, directory, clientModel }, ends = directory, rounds }: TrialPlace,
  { work, middle, protection, text: { trained, heldOut } }: Trial,
  signal: AbortSignal
): AsyncGenerator<TrialProgress, { before: number, after: number }> {
  const { training: { schedule, optimizer, maxGradientNorm }, wire } = charter
  const trainer = await TrialTrainer.load({
    device,
    model,
    partition,
    trainable: trainableOf(charter),
    optimizer,
    rounding: wire,
    format: clientModel.weights.format,
    ends,
    middle,
    protection
  })
  try {
    yield { work, done: 0, total: rounds }
    const before = await trainer.evaluate(heldOut, HELD_OUT_BATCHES, signal)
    // The schedule of a run of so many rounds: a trial is shorter than the federation's work.
    const short = { ...schedule, warmupRounds: Math.min(schedule.warmupRounds, Math.floor(rounds / 10)), totalRounds: rounds }
    for (let round = 0; round < rounds; round++) {
      signal.throwIfAborted()
      await trainer.step(trained, learningRateAt(short, optimizer.learningRate, round), maxGradientNorm)
      yield { work, done: round + 1, total: rounds }
    }
    return { before, after: await trainer.evaluate(heldOut, HELD_OUT_BATCHES, signal) }
  } finally {
    trainer.free()
  }
}

/** Counts the held-out tokens that losses are means of. */
export function countTokens (batches: Batches): number {
  let tokens = 0
  for (let index = 0; index < Math.min(HELD_OUT_BATCHES, batches.count(0)); index++) tokens += batches.at({ epoch: 0, index }).batch.tokens
  return tokens
}
