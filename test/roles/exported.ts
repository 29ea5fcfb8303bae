import { join } from 'node:path'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import type { PeftAdapter } from '../../src/model/checkpoint/peft.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { sequencesOf } from '../../src/model/layers/hidden-states.ts'
import type { AdapterTraining } from '../../src/model/layers/trainable.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../src/model/training/client-model.ts'
import { Parameters } from '../../src/model/training/parameters.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import type { Tensor } from '../../src/tensor.ts'
import { writeTinyData } from '../helpers/tiny-model.ts'
import { adapterTensors, mixedPartitions, startFederation } from './helpers.ts'

/** An epsilon above rounding, so that another machine's rounding does not decide the direction of a step. */
const charter: Partial<CreateOptions> = {
  name: 'tiny',
  seed: '5eed',
  loraR: 3,
  loraAlpha: 6,
  loraTargets: ['q', 'k', 'v', 'o', 'gate', 'up', 'down'],
  learningRate: 2e-2,
  epsilon: 1e-4,
  minClients: mixedPartitions.length
}
const ROUNDS = 10

/** Trains the tiny model in `model` by a federation of three, the same way each time, and exports its adapter to `out`. */
export async function exportTrained (model: string, out: string): Promise<PeftAdapter> {
  const federation = await startFederation({ model, charter, clients: mixedPartitions, identities: 'exported' })
  try {
    await Promise.all(federation.clients.map(async (client, index) => {
      const data = join(federation.root, `${index}.jsonl`)
      await writeTinyData(data, index)
      await client.train({ data, rounds: ROUNDS, packing: 'padded', sequences: 4, maxTokens: 48 })
    }))
    return await federation.clients[0]!.export(out, { baseModel: 'tiny' })
  } finally {
    await federation.stop()
  }
}

/** Midspan's own logits [rows, vocabulary] for these sequences, with an adapter on a model directory. */
export async function logitsWith (path: string, adapter: PeftAdapter, sequences: ReadonlyArray<readonly number[]>): Promise<Tensor> {
  return await trainedLogits(path, { ...adapter, seed: '00', bias: 'none' }, adapterTensors(adapter), sequences)
}

/** The same, with all that was trained, by Midspan's names. */
export async function trainedLogits (
  path: string,
  trainable: AdapterTraining,
  values: ReadonlyMap<string, Tensor>,
  sequences: ReadonlyArray<readonly number[]>
): Promise<Tensor> {
  const device = await openDevice('cpu', { threads: 1 })
  try {
    const directory = await openModelDirectory(path)
    const model = modelOf(directory.config)
    const { bottom, top, weights } = await loadClientModel(
      device,
      model,
      directory,
      { inputBlocks: 0, outputBlocks: model.layers },
      trainable
    )
    await (await Parameters.create(device, weights.trained)).restore(values)
    const { hidden } = await bottom.forward(sequences.map((ids) => [...ids]), { keepResiduals: false })
    return await top.logits(
      { hidden, ...sequencesOf(model, sequences) },
      Array.from({ length: hidden.shape[0] as number }, (_, row) => row)
    )
  } finally {
    await device.close()
  }
}
