import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { MidspanError, UsageError } from '../../errors.ts'
import { openModelDirectory, type ModelDirectory } from '../../model/checkpoint/directory.ts'
import { fingerprint } from '../../model/checkpoint/fingerprint.ts'
import { checkModel, checkTiedHead, familyOf, modelOf, type Model } from '../../model/families/index.ts'
import { checkTrainable } from '../../model/layers/trainable.ts'
import { Boundary } from '../../model/privacy/boundary.ts'
import { calibrate, type Calibration, type Clips } from '../../model/privacy/calibration.ts'
import { noiseCost, type NoiseCost } from '../../model/privacy/noise-cost.ts'
import { builtInSample, readSample, type Sample } from '../../model/privacy/sample.ts'
import { openDevice } from '../../model/runtime/worker-device.ts'
import { loadTokenizer } from '../../model/text/load.ts'
import { BlockwiseRun } from '../../model/training/sample-run.ts'
import { CharterInvalidError, signCharter, type Charter } from '../../protocols/charter/index.ts'
import { spanText } from '../../span.ts'
import { homeAt, replaceFile } from '../home/home.ts'
import { loadOrCreateIdentity } from '../home/identity.ts'
import { withNewHome } from '../home/lock.ts'
import { updateConfig } from '../home/settings.ts'
import { charterOf, checkOptions, cutsOf, trainedOf, type CreateOptions } from './charter-builder.ts'
import { importAdapter } from './initial-adapter.ts'

export type { CreateOptions } from './charter-builder.ts'

export interface CreateDependencies {
  /** Called with the bytes of the model that were hashed since the last call. */
  readonly onProgress?: (bytes: number) => void
  /** Called before each block through which the sample is run. */
  readonly onCalibrate?: (block: number, blocks: number) => void
}

export interface CreatedFederation {
  readonly home: string
  readonly peerId: string
  readonly federation: { readonly id: string, readonly name: string }
  readonly model: {
    readonly path: string,
    readonly blocks: number,
    readonly hidden: number,
    readonly tensors: number,
    readonly bytes: number
  }
  readonly clip: Clips | null
  /** What the federation's least noise on hidden states costs, where clients keep the fewest blocks; null where it was not measured. */
  readonly noiseCost: NoiseCost | null
}

/** Founds a federation around a model directory and makes `root` its server's home. Throws UsageError and the model's errors. */
export async function createFederation (
  root: string,
  options: CreateOptions,
  signal: AbortSignal,
  { onProgress, onCalibrate }: CreateDependencies = {}
): Promise<CreatedFederation> {
  const directory = await openModelDirectory(options.model)
  const model = modelOf(directory.config)
  checkModel(model, directory)
  checkOptions(options, model)
  const trained = trainedOf(options, model)
  checkTrainable(model, { ...trained.adapters, ...trained.weights })
  const home = homeAt(root)
  return await withNewHome(home, async () => {
    const key = await loadOrCreateIdentity(home.identity)
    const sample = await sampleFor(options, model, directory, signal)
    const imported = options.adapter === undefined ? {} : await importAdapter(home, options.adapter, model, trained.weights)
    const { tensors, files } = await fingerprint(directory, onProgress, signal)
    checkTiedHead(model, directory.path, tensors)
    const calibration = sample === undefined ? undefined : await calibrated(options, model, directory, sample, signal, onCalibrate)
    const clip = calibration?.clips ?? null
    const charter = {
      ...charterOf(options, model),
      ...trained,
      adapters: { ...trained.adapters, ...imported },
      founder: peerIdFromPrivateKey(key).toString(),
      model: {
        family: familyOf(directory.config).name,
        config: directory.config,
        blocks: model.layers,
        hidden: model.hiddenSize,
        tensors,
        files
      },
      privacy: {
        noise: options.noise,
        gradientNoise: options.gradientNoise,
        clipAlways: typeof options.clip === 'number',
        clip,
        ...(calibration === undefined ? {} : { losses: calibration.losses })
      }
    } as unknown as Charter // read-only parts of a model become plain JSON; signing checks the whole
    const signed = await signCharter(charter, key).catch(explain)
    const { blocks, allow, threads, device, compute, weights } = options
    await updateConfig(home, {
      role: 'server',
      model: directory.path,
      blocks: blocks === undefined ? undefined : spanText(blocks),
      allow: allow.length === 0 ? undefined : [...allow],
      threads,
      device,
      compute,
      weights
    })
    await replaceFile(home.charter, signed.bytes) // last: with it the home belongs to the federation
    const bytes = Object.values(tensors).reduce((sum, tensor) => sum + tensor.bytes, 0)
    return {
      home: home.root,
      peerId: charter.founder,
      federation: { id: signed.id, name: charter.name },
      model: { path: directory.path, blocks: model.layers, hidden: model.hiddenSize, tensors: Object.keys(tensors).length, bytes },
      clip,
      noiseCost: noiseCost(calibration?.losses, options.inputBlocks.min, options.noise) ?? null
    }
  })
}

/** Reads the text to calibrate on; undefined where there is no clip, and so nothing to measure. */
async function sampleFor (
  { calibrate: file, clip }: CreateOptions,
  model: Model,
  directory: ModelDirectory,
  signal: AbortSignal
): Promise<Sample | undefined> {
  if (clip === 'none') return undefined
  const tokenizer = await loadTokenizer(directory.path)
  return file === undefined ? builtInSample(tokenizer, model) : await readSample(file, tokenizer, model, signal)
}

/** Measures clip norms, and what noise costs, on a sample of text. */
async function calibrated (
  { clip, noise, threads, wire, ...ranges }: CreateOptions,
  model: Model,
  directory: ModelDirectory,
  sample: Sample,
  signal: AbortSignal,
  onCalibrate: CreateDependencies['onCalibrate']
): Promise<Calibration> {
  const device = await openDevice('cpu', threads === undefined ? {} : { threads })
  try {
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: wire })
    return await calibrate(device, boundary, new BlockwiseRun(device, model, directory, sample), {
      cuts: cutsOf(ranges, model.layers),
      clip: typeof clip === 'number' ? clip : undefined,
      clipAlways: typeof clip === 'number',
      noise
    }, signal, onCalibrate)
  } finally {
    await device.close()
  }
}

/** A charter that a founder's own options make invalid is the founder's to correct. */
function explain (error: unknown): never {
  if (error instanceof CharterInvalidError) throw new UsageError(`${error.field}: ${error.reason}`, 'correct the option', error)
  throw error instanceof MidspanError ? error : new MidspanError('E_FOUND', 'the charter could not be signed', { cause: error })
}
