import { openModelDirectory, type ModelDirectory } from '../../model/checkpoint/directory.ts'
import { checkWeights, clientTensors, type Model } from '../../model/families/index.ts'
import { Boundary } from '../../model/privacy/boundary.ts'
import type { Device } from '../../model/runtime/device.ts'
import { GrammarThread } from '../../model/text/threads/grammar-thread.ts'
import { TokenizerThread } from '../../model/text/threads/tokenizer-thread.ts'
import { loadClientModel, type ClientModel } from '../../model/training/client-model.ts'
import { Parameters } from '../../model/training/parameters.ts'
import type { Charter, Partition } from '../../protocols/charter/schema.ts'
import { charteredModel, trainableOf } from '../charter-settings.ts'
import type { RoleComponents } from '../components.ts'
import type { RoleSettings } from '../context.ts'

export interface RuntimeSettings {
  readonly charter: Charter
  readonly partition: Partition
  /** The directory of the client's part of the model. */
  readonly modelPath: string
  readonly role: RoleSettings
}

/** What computes on a client: its device, its part of the model with what is trained of it, and the tokenizer. */
export interface ClientRuntime {
  readonly device: Device
  readonly model: Model
  readonly directory: ModelDirectory
  readonly clientModel: ClientModel
  readonly parameters: Parameters
  readonly tokenizer: TokenizerThread
  /** Keeps texts to forms. */
  readonly grammars: GrammarThread
  readonly boundary: Boundary
  /** Frees everything. Called again, it does nothing. */
  close (): Promise<void>
}

/** Opens the device and loads the client's part of the model. The caller closes what is returned. */
export async function openClientRuntime (
  { charter, partition, modelPath, role }: RuntimeSettings,
  { openDevice }: RoleComponents
): Promise<ClientRuntime> {
  const { device: kind, threads, compute, weights: format, residuals: policy, residualBytes } = role
  const model = charteredModel(charter)
  const directory = await openModelDirectory(modelPath)
  checkWeights(model, directory, clientTensors(model, partition))
  const tokenizer = new TokenizerThread(modelPath)
  const grammars = new GrammarThread({ dir: modelPath, size: model.vocabularySize })
  let device: Device | undefined
  const close = async (): Promise<void> => {
    await tokenizer.close()
    await grammars.close()
    await device?.close()
  }
  try {
    device = await openDevice(kind, { compute, ...(threads === undefined ? {} : { threads }) })
    const clientModel = await loadClientModel(device, model, directory, partition, trainableOf(charter), { format, policy, residualBytes })
    const parameters = await Parameters.create(device, clientModel.weights.trained)
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: charter.wire })
    return { device, model, directory, clientModel, parameters, tokenizer, grammars, boundary, close }
  } catch (error) {
    await close()
    throw error
  }
}
