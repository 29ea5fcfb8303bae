import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { MidspanError, UsageError } from '../../errors.ts'
import { openModelDirectory, type ModelDirectory } from '../../model/checkpoint/directory.ts'
import { fingerprint } from '../../model/checkpoint/fingerprint.ts'
import { checkModel, checkTiedHead, familyOf, modelOf, type Model } from '../../model/families/index.ts'
import { checkTrainable } from '../../model/layers/trainable.ts'
import { calibrateClips, type Clips, type Cuts } from '../../model/privacy/calibration.ts'
import { openDevice } from '../../model/runtime/open.ts'
import { CharterInvalidError, signCharter, type Charter } from '../../protocols/charter/index.ts'
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
}

/** Founds a federation around a model directory and makes `root` its server's home. Throws UsageError and the model's errors. */
export async function createFederation (
  root: string,
  options: CreateOptions,
  signal: AbortSignal,
  { onProgress }: CreateDependencies = {}
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
    const imported = options.adapter === undefined ? {} : await importAdapter(home, options.adapter, model, trained.weights)
    const { tensors, files } = await fingerprint(directory, onProgress, signal)
    checkTiedHead(model, directory.path, tensors)
    const clip = await clipsFor(options, model, directory, signal)
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
      privacy: { noise: options.noise, gradientNoise: options.gradientNoise, clipAlways: typeof options.clip === 'number', clip }
    } as unknown as Charter // read-only parts of a model become plain JSON; signing checks the whole
    const signed = await signCharter(charter, key).catch(explain)
    const { allow, threads, device, compute, weights } = options
    await updateConfig(home, {
      role: 'server',
      model: directory.path,
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
      clip
    }
  })
}

/** A norm for each cut: measured on the model, the same for all, or none. */
async function clipsFor (options: CreateOptions, model: Model, directory: ModelDirectory, signal: AbortSignal): Promise<Clips | null> {
  const cuts = cutsOf(options, model.layers)
  if (options.clip === 'auto') return await calibrated(options, model, directory, cuts, signal)
  if (options.clip === 'none') return null
  const { clip } = options
  const all = (at: readonly number[]): Record<string, number> => Object.fromEntries(at.map((cut) => [cut, clip]))
  return { hidden: all(cuts.hidden), gradient: all(cuts.gradient) }
}

async function calibrated (
  { threads }: CreateOptions,
  model: Model,
  directory: ModelDirectory,
  cuts: Cuts,
  signal: AbortSignal
): Promise<Clips> {
  const device = await openDevice('cpu', threads === undefined ? {} : { threads })
  try {
    return await calibrateClips(device, model, directory, cuts, signal)
  } finally {
    await device.close()
  }
}

/** A charter that a founder's own options make invalid is the founder's to correct. */
function explain (error: unknown): never {
  if (error instanceof CharterInvalidError) throw new UsageError(`${error.field}: ${error.reason}`, 'correct the option', error)
  throw error instanceof MidspanError ? error : new MidspanError('E_FOUND', 'the charter could not be signed', { cause: error })
}
