import { randomBytes } from 'node:crypto'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { MidspanError, UsageError } from '../errors.ts'
import { fingerprint } from '../model/checkpoint/fingerprint.ts'
import { openModelDirectory, type ModelDirectory } from '../model/checkpoint/directory.ts'
import { checkModel, checkTiedHead, familyOf, modelOf, type Model } from '../model/families/index.ts'
import { calibrateClips, type Clips, type Cuts } from '../model/privacy/calibrate.ts'
import { openDevice } from '../model/runtime/open.ts'
import { adaptableModules, adapterTargets } from '../model/training/lora.ts'
import { checkTrainable, type TrainedBiases } from '../model/training/trainable.ts'
import { CHARTER_VERSION, CharterInvalidError, PROTOCOL_VERSIONS, signCharter, type Charter } from '../protocols/charter/index.ts'
import { importAdapter } from './adapter.ts'
import { createHome, homeAt, HomeInUseError, readIfPresent, replaceFile } from './home.ts'
import { loadOrCreateIdentity } from './identity.ts'
import { lockHome } from './lock.ts'
import { updateConfig, type PartialSettings } from './settings.ts'

/** What a founder decides: the options of `midspan init`. */
export interface FoundOptions {
  readonly model: string
  readonly name: string
  readonly admission: Charter['admission']
  readonly allow: readonly string[]
  readonly inputBlocks: { readonly min: number, readonly max: number }
  readonly outputBlocks: { readonly min: number, readonly max: number }
  readonly noise: number
  readonly gradientNoise: number
  readonly clip: 'auto' | 'none' | number
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
  /** Batches that each client brings to a round, one after another. */
  readonly accumulate: number
  readonly strategy: Charter['strategy']
  readonly ends: Charter['ends']
  readonly minClients: number
  readonly roundDeadline: number
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

export interface FoundDependencies {
  /** Called with the bytes of the model that were hashed since the last call. */
  readonly onProgress?: (bytes: number) => void
}

export interface Founded {
  readonly home: string
  readonly peerId: string
  readonly federation: { readonly id: string, readonly name: string }
  readonly model: { readonly path: string, readonly blocks: number, readonly hidden: number, readonly tensors: number, readonly bytes: number }
  readonly clip: Clips | null
}

/** A client trains on one session and generates on others. */
const MAX_SESSIONS_PER_CLIENT = 4
const SEED_BYTES = 16
/** PEFT's word for every linear module of the blocks. */
const ALL_LINEAR = 'all-linear'

/** Founds a federation around a model directory and makes `root` its server's home. Throws UsageError and the model's errors. */
export async function foundFederation (root: string, options: FoundOptions, signal: AbortSignal, { onProgress }: FoundDependencies = {}): Promise<Founded> {
  const directory = await openModelDirectory(options.model)
  const model = modelOf(directory.config)
  checkModel(model, directory)
  checkPartitions(options, model)
  const trained = trainedOf(options, model)
  checkTrainable(model, { ...trained.adapters, ...trained.weights })
  const home = homeAt(root)
  await createHome(home)
  const lock = await lockHome(home)
  try {
    if (await readIfPresent(home.charter) !== undefined) throw new HomeInUseError(home.root)
    const key = await loadOrCreateIdentity(home.identity)
    const imported = options.adapter === undefined ? {} : await importAdapter(home, options.adapter, model, trained.weights)
    const { tensors, files } = await fingerprint(directory, onProgress, signal)
    checkTiedHead(model, directory.path, tensors)
    const clip = await clipsFor(options, model, directory, signal)
    const charter = {
      ...charterOf(options, model),
      ...trained,
      adapters: { ...trained.adapters, ...imported },
      founder: peerIdFromPrivateKey(key).toString(),
      model: { family: familyOf(directory.config).name, config: directory.config, blocks: model.layers, hidden: model.hiddenSize, tensors, files },
      privacy: { noise: options.noise, gradientNoise: options.gradientNoise, clipAlways: typeof options.clip === 'number', clip }
    } as unknown as Charter // read-only parts of a model become plain JSON; signing checks the whole
    const signed = await signCharter(charter, key).catch(explain)
    await updateConfig(home, { role: 'server', model: directory.path, allow: options.allow.length === 0 ? undefined : [...options.allow], threads: options.threads, device: options.device, compute: options.compute, weights: options.weights })
    await replaceFile(home.charter, signed.bytes) // last: with it the home belongs to the federation
    const bytes = Object.values(tensors).reduce((sum, tensor) => sum + tensor.bytes, 0)
    return {
      home: home.root,
      peerId: charter.founder,
      federation: { id: signed.id, name: charter.name },
      model: { path: directory.path, blocks: model.layers, hidden: model.hiddenSize, tensors: Object.keys(tensors).length, bytes },
      clip
    }
  } finally {
    lock.release()
  }
}

/** The cuts of every partition within these ranges. */
export function cutsOf ({ inputBlocks, outputBlocks }: Pick<FoundOptions, 'inputBlocks' | 'outputBlocks'>, blocks: number): Cuts {
  return { hidden: from(inputBlocks.min, inputBlocks.max), gradient: from(blocks - outputBlocks.max, blocks - outputBlocks.min) }
}

/** A norm for each cut: measured on the model, the same for all, or none. */
async function clipsFor (options: FoundOptions, model: Model, directory: ModelDirectory, signal: AbortSignal): Promise<Clips | null> {
  const cuts = cutsOf(options, model.layers)
  if (options.clip === 'auto') return await calibrated(options, model, directory, cuts, signal)
  if (options.clip === 'none') {
    if (options.noise > 0 || options.gradientNoise > 0) throw new UsageError('noise is relative to the clip norm, and --clip is none', 'give --clip auto or a norm, or no noise')
    return null
  }
  const { clip } = options
  const all = (at: readonly number[]): Record<string, number> => Object.fromEntries(at.map((cut) => [cut, clip]))
  return { hidden: all(cuts.hidden), gradient: all(cuts.gradient) }
}

async function calibrated ({ threads }: FoundOptions, model: Model, directory: ModelDirectory, cuts: Cuts, signal: AbortSignal): Promise<Clips> {
  const device = await openDevice('cpu', threads === undefined ? {} : { threads })
  try {
    return await calibrateClips(device, model, directory, cuts, signal)
  } finally {
    await device.close()
  }
}

function checkPartitions ({ inputBlocks, outputBlocks }: FoundOptions, { layers }: Model): void {
  if (inputBlocks.max + outputBlocks.max < layers) return
  throw new UsageError(`the model has ${layers} blocks, and clients could keep ${inputBlocks.max + outputBlocks.max} of them`, 'give smaller --input-blocks or --output-blocks, so that a middle is left')
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

function trainedOf (options: FoundOptions, model: Model): Pick<Charter, 'adapters' | 'weights'> {
  return {
    adapters: {
      r: options.loraR, alpha: options.loraAlpha, dropout: options.loraDropout, targets: targetsOf(options.loraTargets, model), rslora: options.loraRslora,
      seed: options.seed ?? randomBytes(SEED_BYTES).toString('hex')
    },
    weights: { blocks: [...options.trainBlocks ?? []], bias: options.trainBias ?? 'none' }
  }
}

function charterOf (options: FoundOptions, model: Model): Omit<Charter, 'founder' | 'model' | 'privacy' | 'adapters' | 'weights'> {
  return {
    version: CHARTER_VERSION,
    name: options.name,
    createdAt: new Date().toISOString(),
    protocols: { ...PROTOCOL_VERSIONS },
    training: {
      optimizer: { name: 'adamw', learningRate: options.learningRate, beta1: options.beta1, beta2: options.beta2, epsilon: options.epsilon, weightDecay: options.weightDecay },
      schedule: { name: options.schedule, warmupRounds: options.warmupRounds, totalRounds: options.totalRounds },
      maxGradientNorm: options.maxGradientNorm,
      gradientAccumulationSteps: options.accumulate,
      maxTokensPerClient: options.maxTokensPerClient,
      roundDeadlineMs: options.roundDeadline,
      minClients: options.minClients
    },
    strategy: options.strategy,
    ends: options.ends,
    partitions: { inputBlocks: options.inputBlocks, outputBlocks: options.outputBlocks },
    wire: options.wire,
    admission: options.admission,
    limits: {
      maxSequenceTokens: options.maxSequenceTokens ?? model.maxPositions, maxClients: options.maxClients, maxSessionsPerClient: MAX_SESSIONS_PER_CLIENT, cacheBytes: options.cacheBytes
    }
  }
}

/** A charter that a founder's own options make invalid is the founder's to correct. */
function explain (error: unknown): never {
  if (error instanceof CharterInvalidError) throw new UsageError(`${error.field}: ${error.message.split(': ').at(-1)}`, 'correct the option', error)
  throw error instanceof MidspanError ? error : new MidspanError('E_FOUND', 'the charter could not be signed', { cause: error })
}

function from (first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index)
}
