import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { blockTensor, blockWeights, modelOf } from '../../../src/model/families/index.ts'
import { sequencesOf } from '../../../src/model/layers/hidden-states.ts'
import type { AdapterSettings } from '../../../src/model/layers/lora.ts'
import { endFormat, weightFormats, type WeightFormat } from '../../../src/model/layers/weight-format.ts'
import { ModelWeights, type WeightSource } from '../../../src/model/layers/weights.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../../src/model/training/client-model.ts'
import { LocalTrainer } from '../../../src/model/training/local-trainer.ts'
import { elementCount, float32 } from '../../../src/tensor.ts'
import { answersOf } from '../../helpers/chatglm.ts'
import { baseWeights, loraWeights, readModelGolden, relativeError, type ModelGolden } from '../../helpers/golden.ts'
import { rounded } from '../../helpers/quantized.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const golden = readModelGolden('llama/gqa')
const adaptersOf = ({ lora }: ModelGolden): AdapterSettings => ({ ...lora, dropout: 0, rslora: false, seed: 'test' })
const adapters = adaptersOf(golden)
const batchOf = ({ ids, config }: ModelGolden) => modelOf(config).prompts === undefined ? nextTokens(ids) : answersOf(ids)
const nextTokens = (ids: ModelGolden['ids']) => ({
  ids: ids.map((sequence) => sequence.slice(0, -1)),
  targets: ids.map((sequence) => sequence.slice(1))
})
const compact = weightFormats.filter((format) => format !== 'fp32')

const values = async (value: DeviceTensor): Promise<Float32Array> => (await device.download(value)).data as Float32Array

/** The loss of a model and its gradients, with adapters that are not zero. */
async function step (
  golden: ModelGolden,
  source: WeightSource,
  format: WeightFormat
): Promise<{ loss: number, gradients: Map<string, Float32Array> }> {
  const model = modelOf(golden.config)
  const batch = batchOf(golden)
  const { bottom, top, weights } = await loadClientModel(
    device,
    model,
    source,
    { inputBlocks: 1, outputBlocks: model.layers - 1 },
    adaptersOf(golden),
    { format }
  )
  await weights.setTrained(loraWeights(golden))
  const { hidden, residuals } = await bottom.forward(batch.ids, { keepResiduals: true })
  const { lossSum, gradient, gradients } = await top.train({ hidden, ...sequencesOf(model, batch.ids) }, batch.targets)
  const all = new Map([...gradients, ...await bottom.backward(residuals!, gradient)])
  const read = new Map(await Promise.all([...all].map(async ([name, value]) => [name, await values(value)] as const)))
  device.free(hidden, gradient, ...all.values())
  weights.free()
  return { loss: lossSum, gradients: read }
}

describe.each(compact)('frozen weights in %s', (format) => {
  it.each(['llama/gqa', 'llama/mqa-tied', 'chatglm/150528'])(
    'give the loss and the gradients of the values they stand for in %s',
    async (name) => {
      const golden = readModelGolden(name)
      const model = modelOf(golden.config)
      const source = memorySource(baseWeights(golden))
      const same = await step(
        golden,
        rounded(device, source, (name) => name.startsWith(model.layersPrefix) ? format : endFormat(format)),
        'fp32'
      )
      const kept = await step(golden, source, format)
      expect(Math.abs(kept.loss - same.loss) / same.loss).toBeLessThan(1e-6)
      expect([...kept.gradients.keys()]).toEqual([...same.gradients.keys()])
      for (const [name, gradient] of kept.gradients) expect(relativeError(gradient, same.gradients.get(name)!), name).toBeLessThan(1e-4)
    }
  )

  it('train: the loss comes down', async () => {
    const batch = batchOf(golden)
    const trainer = await LocalTrainer.load(device, modelOf(golden.config), memorySource(baseWeights(golden)), {
      trainable: adapters,
      format,
      optimizer: { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
    })
    const first = await trainer.step([batch], { learningRate: 1e-2 })
    for (let i = 0; i < 8; i++) await trainer.step([batch], { learningRate: 1e-2 })
    expect((await trainer.evaluate(batch)).lossSum).toBeLessThan(first.lossSum * 0.9)
    trainer.free()
  })
})

describe('ModelWeights', () => {
  /** Bytes that a block's matrices take; sizes are whole blocks, so that nothing is filled up. */
  async function matrixBytes (format: WeightFormat): Promise<number> {
    const model = modelOf({ ...golden.config, hidden_size: 64, intermediate_size: 128 })
    const weights = new ModelWeights(device, model, { ...adapters, targets: [] }, format)
    const before = (await device.memory()).heldBytes
    await weights.loadBlocks(
      memorySource(
        new Map(
          blockWeights(model).map(({ name, shape }) => [blockTensor(model, 0, name), float32(shape, new Float32Array(elementCount(shape)))])
        )
      ),
      { first: 0, end: 1 }
    )
    const { heldBytes } = await device.memory()
    weights.free()
    return heldBytes - before - 2 * 64 * 4
  }

  it('takes as much of the device as the format says', async () => {
    const whole = await matrixBytes('fp32')
    expect(await matrixBytes('fp16') / whole).toBe(1 / 2)
    expect(await matrixBytes('int8') / whole).toBe(9 / 32)
    expect(await matrixBytes('int4') / whole).toBe(5 / 32)
  })

  it('keeps what is trained in float32, whatever the format', async () => {
    const weights = new ModelWeights(device, modelOf(golden.config), 'weights', 'int4')
    await weights.loadHead(memorySource(baseWeights(golden)))
    expect(weights.format).toBe('fp32')
    expect([...weights.trained.values()].every(({ dtype }) => dtype === 'float32')).toBe(true)
    weights.free()
  })
})
