import { expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { CachedClientModel } from '../../../src/model/generation/cached-client-model.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import type { Device, DeviceMemory } from '../../../src/model/runtime/device.ts'
import { LocalTrainer } from '../../../src/model/training/local-trainer.ts'
import { baseWeights, readModelGolden } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import type { Subject } from '../suite.ts'

const golden = readModelGolden('llama/gqa')
const trainable = { ...golden.lora, dropout: 0, rslora: false, seed: '' }

/** Integers that say what a row is and where it stands: ids, targets, positions, places. */
const BYTES_PER_ROW = 64
/** A step's settings for one parameter, and what else a run is told besides its rows. */
const BYTES_PER_RUN = 64
const FLOAT32_BYTES = 4

async function copied (device: Device, work: () => Promise<unknown>): Promise<DeviceMemory> {
  const before = await device.memory()
  await work()
  const after = await device.memory()
  return {
    heldBytes: after.heldBytes - before.heldBytes,
    uploadedBytes: after.uploadedBytes - before.uploadedBytes,
    downloadedBytes: after.downloadedBytes - before.downloadedBytes
  }
}

export function copies ({ device }: Subject): void {
  it('a training step copies token ids in and its loss out: weights, adapters, residuals and optimiser state stay', async () => {
    const trainer = await LocalTrainer.load(device(), modelOf(golden.config), memorySource(baseWeights(golden)), {
      trainable, optimizer: { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01 }
    })
    const batch = { ids: golden.ids.map((ids) => ids.slice(0, -1)), targets: golden.ids.map((ids) => ids.slice(1)) }
    const step = async () => await trainer.step([batch], { learningRate: 1e-3 })
    await step()
    const { heldBytes, uploadedBytes, downloadedBytes } = await copied(device(), step)
    expect(heldBytes).toBe(0)
    expect(downloadedBytes).toBe(FLOAT32_BYTES)
    expect(uploadedBytes).toBeLessThan(BYTES_PER_ROW * batch.ids.flat().length + BYTES_PER_RUN * trainer.parameters.names.length)
    trainer.free()
  })

  it('a generated token copies its id in and its logits out: weights and caches stay', async () => {
    const model = modelOf(golden.config)
    const weights = new ModelWeights(device(), model, trainable)
    await weights.loadEmbedding(memorySource(baseWeights(golden)))
    await weights.loadHead(memorySource(baseWeights(golden)))
    await weights.loadBlocks(memorySource(baseWeights(golden)), { first: 0, end: model.layers })
    const ends = await CachedClientModel.create(weights, { inputBlocks: 0, outputBlocks: model.layers }, 32)
    const next = async (ids: readonly number[]) => await ends.logits(await ends.embed(ids), ids.length)
    await next(golden.ids[0]!)
    const { heldBytes, uploadedBytes, downloadedBytes } = await copied(device(), async () => await next([1]))
    expect(heldBytes).toBe(0)
    expect(downloadedBytes).toBe(FLOAT32_BYTES * model.vocabularySize)
    expect(uploadedBytes).toBeLessThan(BYTES_PER_ROW + BYTES_PER_RUN * model.layers)
    ends.free()
    weights.free()
  })
}
