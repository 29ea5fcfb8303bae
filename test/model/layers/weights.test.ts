import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf, modelWeights } from '../../../src/model/families/index.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { elementCount, float32, type Tensor } from '../../../src/tensor.ts'
import { memorySource } from '../../helpers/source.ts'

const model = modelOf({
  architectures: ['LlamaForCausalLM'],
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4
})

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

function tensors (): Map<string, Tensor> {
  return new Map(modelWeights(model).map(({ name, shape }) => [name, float32(shape, new Float32Array(elementCount(shape)).fill(0.5))]))
}

describe.each(['fp32', 'int8'] as const)('weights kept as %s', (format) => {
  it('are all loaded, or none where one cannot be read or has another shape', async () => {
    const weights = new ModelWeights(device, model, { targets: [], r: 1, alpha: 1, rslora: false, dropout: 0, seed: '' }, format)
    const { heldBytes } = await device.memory()
    const broken = tensors()
    broken.delete('model.layers.1.mlp.down_proj.weight')
    await expect(weights.loadBlocks(memorySource(broken), { first: 0, end: 2 })).rejects.toThrow('model.layers.1.mlp.down_proj.weight')
    expect((await device.memory()).heldBytes).toBe(heldBytes)
    const reshaped = tensors().set('model.layers.1.mlp.up_proj.weight', float32([16, 24], new Float32Array(16 * 24)))
    await expect(weights.loadBlocks(memorySource(reshaped), { first: 0, end: 2 })).rejects.toMatchObject({
      code: 'E_TENSOR_MISMATCH',
      message: 'the weights: tensor model.layers.1.mlp.up_proj.weight is [16, 24], and the model calls for [24, 16]'
    })
    expect((await device.memory()).heldBytes).toBe(heldBytes)
    await weights.loadBlocks(memorySource(tensors()), { first: 0, end: 2 })
    expect(Object.keys(weights.blockInputs(1))).not.toEqual([])
    weights.free()
  })
})

it('trained tensors are assigned where they are, all or none', async () => {
  const weights = new ModelWeights(device, model, { targets: ['q_proj'], r: 2, alpha: 2, rslora: false, dropout: 0, seed: '' })
  await weights.loadTrained(memorySource(tensors()), { first: 0, end: 2 })
  const before = new Map(weights.trained)
  const { heldBytes } = await device.memory()
  const values = new Map([...before].map(([name, { shape }], i) => [name, float32(shape, new Float32Array(elementCount(shape)).fill(i))]))
  await weights.assignTrained(values)
  expect(weights.trained).toEqual(before)
  expect(await device.downloadAll([...before.values()])).toEqual([...values.values()])
  expect((await device.memory()).heldBytes).toBe(heldBytes)
  const [name] = before.keys()
  await expect(weights.assignTrained(new Map([[name!, float32([1], [7])]]))).rejects.toMatchObject({ code: 'E_DEVICE' })
  await expect(weights.assignTrained(new Map([['9.lora_A', float32([1], [7])]]))).rejects.toMatchObject({ code: 'E_DEVICE' })
  expect(await device.downloadAll([...before.values()])).toEqual([...values.values()])
  weights.free()
})

it('a tensor that is given to the device is not copied, and is the device\'s from then on', async () => {
  const values = float32([8192], new Float32Array(8192).fill(2))
  const given = await device.upload(values, { given: true })
  expect(values.data.length).toBe(0)
  expect((await device.download(given)).data).toEqual(new Float32Array(8192).fill(2))
  device.free(given)
})
