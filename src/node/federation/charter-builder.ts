import { randomBytes } from 'node:crypto'
import { UsageError } from '../../errors.ts'
import type { Model } from '../../model/families/index.ts'
import { adaptableModules, adapterTargets } from '../../model/layers/lora.ts'
import type { TrainedBiases } from '../../model/layers/trainable.ts'
import type { Cuts } from '../../model/privacy/calibration.ts'
import { CHARTER_VERSION, PROTOCOL_VERSIONS, type Charter } from '../../protocols/charter/index.ts'
import { unsummableBecause } from '../../protocols/charter/schema.ts'
import type { Span } from '../../span.ts'
import type { PartialSettings } from '../home/settings.ts'
import { roundDeadlineFor } from './round-deadline.ts'
import { servedSpan } from './served-span.ts'

/** What a founder decides: the options of `midspan init`. */
export interface CreateOptions {
  readonly model: string
  readonly name: string
  /** The blocks that the founder's own server serves; all that servers can serve where it is absent. */
  readonly blocks?: Span | undefined
  readonly admission: Charter['admission']
  readonly allow: readonly string[]
  readonly inputBlocks: { readonly min: number, readonly max: number }
  readonly outputBlocks: { readonly min: number, readonly max: number }
  readonly noise: number
  readonly gradientNoise: number
  readonly clip: 'auto' | 'none' | number
  /** A data file to measure clip norms and the cost of noise on; the built-in sample where it is absent. */
  readonly calibrate?: string | undefined
  readonly wire: Charter['wire']
  readonly loraR: number
  readonly loraAlpha: number
  readonly loraDropout: number
  /** Names of linear modules, or `all-linear`; the family's usual ones where it is absent. */
  readonly loraTargets?: readonly string[] | undefined
  readonly loraRslora: boolean
  /** A PEFT adapter directory to start from; its rank, alpha, scaling and modules stand in place of those above. */
  readonly adapter?: string | undefined
  /** Blocks that are trained whole, in place of adapters. */
  readonly trainBlocks?: readonly number[] | undefined
  /** None where it is absent. */
  readonly trainBias?: TrainedBiases | undefined
  /** Hex; drawn at random where it is absent. */
  readonly seed?: string | undefined
  readonly learningRate: number
  readonly weightDecay: number
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly schedule: Charter['training']['schedule']['name']
  readonly warmupRounds: number
  readonly totalRounds: number
  readonly maxGradientNorm: number | null
  readonly gradientNormScope: Charter['training']['gradientNormScope']
  /** Batches that each client brings to a round, one after another. */
  readonly accumulate: number
  readonly strategy: Charter['strategy']
  /** Rounds from one average of the servers' parameters to the next: with `server-hierarchical` alone, and 10 there by default. */
  readonly averageEvery?: number | undefined
  readonly ends: Charter['ends']
  readonly aggregation: Charter['aggregation']
  readonly minClients: number
  /** Milliseconds; what the model and the batches take on a slow machine where it is absent. */
  readonly roundDeadline?: number | undefined
  readonly maxTokensPerClient: number
  /** Tokens; the model's context where it is absent. */
  readonly maxSequenceTokens?: number | undefined
  readonly maxClients: number
  readonly cacheBytes: number
  readonly threads?: number | undefined
  readonly device?: PartialSettings['device']
  readonly compute?: PartialSettings['compute']
  readonly weights?: PartialSettings['weights']
}

/** A client trains on one session and generates on others. */
const MAX_SESSIONS_PER_CLIENT = 4
const SEED_BYTES = 16
/** Rounds between two averages of servers' parameters: few enough that the copies of a model stay close. */
const DEFAULT_AVERAGE_EVERY = 10
/** PEFT's word for every linear module of the blocks. */
const ALL_LINEAR = 'all-linear'

/** Throws UsageError for options that no charter can hold, before a model that takes minutes to read is read. */
export function checkOptions (
  { inputBlocks, outputBlocks, blocks, clip, calibrate, noise, gradientNoise, ...rounds }: CreateOptions,
  { layers }: Model
): void {
  checkStrategy({ inputBlocks, outputBlocks, ...rounds })
  if (inputBlocks.max + outputBlocks.max >= layers) {
    throw new UsageError(
      `the model has ${layers} blocks, and clients could keep ${inputBlocks.max + outputBlocks.max} of them`,
      'give smaller --input-blocks or --output-blocks, so that a middle is left'
    )
  }
  const unsummable = unsummableBecause({ ...rounds, inputBlocks, outputBlocks })
  if (unsummable !== undefined) {
    throw new UsageError(
      `--aggregation is secure, and ${unsummable}`,
      'leave out --aggregation, or see docs/rounds.md ("Secure sums") for what it goes with'
    )
  }
  if (blocks !== undefined) servedSpan({ model: { blocks: layers }, partitions: { inputBlocks, outputBlocks } }, blocks)
  if (clip === 'none' && calibrate !== undefined)
    throw new UsageError('there is nothing to calibrate, for --clip is none', 'leave out --calibrate, or give --clip auto or a norm')
  if (clip === 'none' && (noise > 0 || gradientNoise > 0))
    throw new UsageError('noise is relative to the clip norm, and --clip is none', 'give --clip auto or a norm, or no noise')
}

type StrategyOptions =
  Pick<CreateOptions, 'strategy' | 'averageEvery' | 'ends' | 'inputBlocks' | 'outputBlocks' | 'gradientNormScope'>

/** Throws UsageError for options that do not go together where each server steps parameters of its own. */
function checkStrategy ({ strategy, averageEvery, ends, inputBlocks, outputBlocks, gradientNormScope }: StrategyOptions): void {
  if (strategy !== 'server-hierarchical') {
    if (averageEvery !== undefined)
      throw new UsageError(`with --strategy ${strategy} servers have nothing to average`, 'leave out --average-every, or give --strategy server-hierarchical')
    return
  }
  if (ends.mode !== 'personal' && (inputBlocks.min < inputBlocks.max || outputBlocks.min < outputBlocks.max)) {
    throw new UsageError(
      `with --strategy server-hierarchical and --ends ${ends.mode} all clients cut the model alike`,
      'give one number each to --input-blocks and --output-blocks, or --ends personal'
    )
  }
  if (gradientNormScope === 'global') {
    throw new UsageError(
      'with --strategy server-hierarchical each server clips its own gradient, and there is no norm of all',
      'give --gradient-norm-scope party'
    )
  }
}

/** The short names that people know LLaMA's modules by are its own without this. */
const PROJECTION = '_proj'

/** The modules that a founder names, in the model's words. Throws AdapterSettingsError for one that the model lacks. */
function targetsOf (named: readonly string[] | undefined, model: Model): string[] {
  if (named === undefined) return [...model.defaultTargets]
  const known = adaptableModules(model)
  if (named.length === 1 && named[0] === ALL_LINEAR) return known
  const targets = named.map((name) => known.includes(name + PROJECTION) ? name + PROJECTION : name)
  adapterTargets(model, { targets })
  return targets
}

/** What is trained, as the founder's options say. Throws AdapterSettingsError for a module that the model lacks. */
export function trainedOf (options: CreateOptions, model: Model): Pick<Charter, 'adapters' | 'weights'> {
  return {
    adapters: {
      r: options.loraR,
      alpha: options.loraAlpha,
      dropout: options.loraDropout,
      targets: targetsOf(options.loraTargets, model),
      rslora: options.loraRslora,
      seed: options.seed ?? randomBytes(SEED_BYTES).toString('hex')
    },
    weights: { blocks: [...options.trainBlocks ?? []], bias: options.trainBias ?? 'none' }
  }
}

/** The rest of the charter, as far as options and model settle it without looking at weights. */
export function charterOf (options: CreateOptions, model: Model): Omit<Charter, 'founder' | 'model' | 'privacy' | 'adapters' | 'weights'> {
  return {
    version: CHARTER_VERSION,
    name: options.name,
    createdAt: new Date().toISOString(),
    protocols: { ...PROTOCOL_VERSIONS },
    training: {
      optimizer: {
        name: 'adamw',
        learningRate: options.learningRate,
        beta1: options.beta1,
        beta2: options.beta2,
        epsilon: options.epsilon,
        weightDecay: options.weightDecay
      },
      schedule: { name: options.schedule, warmupRounds: options.warmupRounds, totalRounds: options.totalRounds },
      maxGradientNorm: options.maxGradientNorm,
      gradientNormScope: options.gradientNormScope,
      gradientAccumulationSteps: options.accumulate,
      maxTokensPerClient: options.maxTokensPerClient,
      roundDeadlineMs: options.roundDeadline ?? roundDeadlineFor(model, options),
      minClients: options.minClients
    },
    strategy: options.strategy,
    ...options.strategy === 'server-hierarchical' ? { averageEvery: options.averageEvery ?? DEFAULT_AVERAGE_EVERY } : {},
    ends: options.ends,
    aggregation: options.aggregation,
    partitions: { inputBlocks: options.inputBlocks, outputBlocks: options.outputBlocks },
    wire: options.wire,
    admission: options.admission,
    limits: {
      maxSequenceTokens: options.maxSequenceTokens ?? model.maxPositions,
      maxClients: options.maxClients,
      maxSessionsPerClient: MAX_SESSIONS_PER_CLIENT,
      cacheBytes: options.cacheBytes
    }
  }
}

/** The cuts of every partition within these ranges. */
export function cutsOf ({ inputBlocks, outputBlocks }: Pick<CreateOptions, 'inputBlocks' | 'outputBlocks'>, blocks: number): Cuts {
  return { hidden: from(inputBlocks.min, inputBlocks.max), gradient: from(blocks - outputBlocks.max, blocks - outputBlocks.min) }
}

function from (first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index)
}
