import { openModelDirectory, type ModelDirectory } from '../../model/checkpoint/directory.ts'
import { SafetensorsFile } from '../../model/checkpoint/safetensors.ts'
import { checkModel, checkWeights, spanTensors, type Model } from '../../model/families/index.ts'
import { ModelWeights, type WeightSource } from '../../model/layers/weights.ts'
import { Boundary } from '../../model/privacy/boundary.ts'
import type { Device } from '../../model/runtime/device.ts'
import { withAdapter } from '../../model/training/initial-adapter.ts'
import { TrainableSpan } from '../../model/training/trainable-span.ts'
import { charteredModel, trainableOf } from '../charter-settings.ts'
import type { RoleComponents } from '../components.ts'
import type { ServerContext } from '../context.ts'
import { LocalStage } from '../middle/local-stage.ts'
import { DeviceTurns } from './device-turns.ts'

/** What computes on a server: its device with the blocks of its span. */
export interface ServerRuntime {
  readonly device: Device
  readonly model: Model
  /** The weights of the model, with the adapter that training starts from where the charter has one. */
  readonly source: WeightSource
  readonly weights: ModelWeights
  readonly blocks: TrainableSpan
  readonly boundary: Boundary
  readonly stage: LocalStage
  /** By which generation and training share the device. */
  readonly turns: DeviceTurns
}

/**
 * Rows that a run of training may have: one block of so many rows takes about as long on a CPU as a full run of generation takes through
 * four (docs/serving.md). Each further run of a pass takes a copy of its rows and one more sum of gradients, 1 % of a run of so many rows.
 */
export const MAX_TRAINING_ROWS = 2048

/** The same while texts are computed, whose tokens wait for a run. */
export const MAX_TRAINING_ROWS_BESIDE_GENERATION = 512

/** Whether a server leads the rounds of training. */
export function isCoordinator ({ coordinator, peerId }: Pick<ServerContext, 'coordinator' | 'peerId'>): boolean {
  return coordinator.equals(peerId)
}

/**
 * Opens the device and loads the blocks of the server's span. The caller closes the device, which frees everything. `generates` says
 * whether texts are computed now.
 */
export async function openServerRuntime (
  context: ServerContext,
  { openDevice }: RoleComponents,
  generates: () => boolean
): Promise<ServerRuntime> {
  const { charter, span, settings: { device: kind, threads, compute, weights: format, residuals: policy, residualBytes } } = context
  const model = charteredModel(charter)
  const directory = await openModelDirectory(context.paths.model)
  const leads = isCoordinator(context)
  // A server that took over has the weights of its own blocks, and training goes on from the state that it took over.
  if (leads && context.peerId.toString() === charter.founder) checkModel(model, directory)
  else checkWeights(model, directory, spanTensors(model, span))
  // A worker gets the values of its adapters from the coordinator, those that training starts from among them.
  const trainable = { ...trainableOf(charter), ...(leads ? {} : { imported: false }) }
  const source = leads ? await withInitialAdapter(context, directory) : directory
  const device = await openDevice(kind, { compute, ...(threads === undefined ? {} : { threads }) })
  try {
    const weights = new ModelWeights(device, model, trainable, format)
    const turns = new DeviceTurns()
    const pace = {
      maxRows: () => generates() ? MAX_TRAINING_ROWS_BESIDE_GENERATION : MAX_TRAINING_ROWS,
      turn: async <T>(run: () => Promise<T>) => await turns.training(run)
    }
    const blocks = await TrainableSpan.load(device, model, source, span, trainable, { weights, policy, residualBytes, pace })
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: charter.wire })
    return { device, model, source, weights, blocks, boundary, turns, stage: new LocalStage({ device, span: blocks, boundary }) }
  } catch (error) {
    await device.close()
    throw error
  }
}

async function withInitialAdapter ({ charter, paths }: ServerContext, directory: ModelDirectory): Promise<WeightSource> {
  return charter.adapters.initial === undefined ? directory : withAdapter(directory, await SafetensorsFile.open(paths.adapter))
}
