import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { Optimizer } from '../../../src/model/training/optimizer.ts'
import { Parameters } from '../../../src/model/training/parameters.ts'
import { float32, int32, type Tensor } from '../../../src/tensor.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const learningRate = 0.1

async function created (values: readonly number[]): Promise<Parameters> {
  return await Parameters.create(device, new Map([['a', await device.upload(float32([values.length], values))]]))
}

it('a state that is restored goes on as the one that was saved', async () => {
  const optimizer = await Optimizer.open(device, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01 })
  const gradients = new Map<string, Tensor>([['a', float32([2], [0.5, -1])]])
  const [first, second] = [await created([1, 2]), await created([7, 8])]
  await first.step(optimizer, gradients, { learningRate, scale: 1 })
  await second.restore(await first.state())
  for (const parameters of [first, second]) await parameters.step(optimizer, gradients, { learningRate, scale: 1 })
  expect(await second.state()).toEqual(await first.state())
  expect((await first.state()).get('a.t')).toEqual(int32([1], [2]))
  await expect(first.step(optimizer, new Map([['b', float32([1], [1])]]), { learningRate, scale: 1 })).rejects.toThrow(
    'no trained tensor b'
  )
})

it.each(['a', 'a.m', 'a.v', 'a.t'])('a state whose %s has another shape is refused, and changes nothing', async (part) => {
  const parameters = await created([1, 2])
  const before = await parameters.state()
  const wrong = new Map<string, Tensor>([['a', float32([2], [3, 4])], [part, float32([1, 2], [5, 6])]])
  await expect(parameters.restore(wrong)).rejects.toThrow(`${part} is [1, 2], not [`)
  expect(await parameters.state()).toEqual(before)
})
