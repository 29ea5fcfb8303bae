import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { Optimizer } from '../../../src/model/training/optimizer.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'

let device: Device
let optimizer: Optimizer

beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
  optimizer = await Optimizer.open(device, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 })
})
afterAll(async () => { await device.close() })

const valuesOf = ({ data }: Tensor): Float32Array => data as Float32Array

/** Sums one addend after another, each result rounded to float32. */
function inTurn (addends: ReadonlyArray<{ readonly value: Tensor, readonly weight: number }>): number[] {
  return Array.from(valuesOf(addends[0]!.value), (_, i) => addends.reduce((sum, { value, weight }) =>
    Math.fround(sum + Math.fround(valuesOf(value)[i]! * Math.fround(weight))), 0))
}

const addendsOf = (count: number, size: number, weight: (i: number) => number) => Array.from({ length: count }, (_, i) => (
  { value: float32([size], Float32Array.from({ length: size }, (_, j) => Math.sin(1 + i * size + j))), weight: weight(i) }))

it('a sum of many tensors is to the bit that of one after another', async () => {
  for (const addends of [addendsOf(1, 3, () => 0.3), addendsOf(100, 3, (i) => 1 / (i + 3))]) {
    const held = (await device.memory()).heldBytes
    const sum = await optimizer.weightedTotal(addends)
    expect([...valuesOf(await device.download(sum))]).toEqual(inTurn(addends))
    device.free(sum)
    expect((await device.memory()).heldBytes).toBe(held)
  }
})

it('a sum of more than a message holds goes in several', async () => {
  // Four times 6.4 MB.
  const addends = [0.1, 0.2, 0.3, 0.4].map((value) => ({ value: float32([1_600_000], new Float32Array(1_600_000).fill(value)), weight: 1 }))
  const held = (await device.memory()).heldBytes
  const sum = await optimizer.weightedTotal(addends)
  const [expected] = inTurn(addends.map(({ value, weight }) => ({ value: float32([1], [valuesOf(value)[0]!]), weight })))
  expect(valuesOf(await device.download(sum)).every((value) => value === expected)).toBe(true)
  device.free(sum)
  expect((await device.memory()).heldBytes).toBe(held)
})

it('a sum leaves tensors on the device to the caller, and there is none of nothing', async () => {
  const own = await device.upload(float32([2], [1, 2]))
  const sum = await optimizer.weightedTotal([{ value: own, weight: 2 }, { value: own, weight: 1 }])
  expect([...(await device.download(sum)).data]).toEqual([3, 6])
  expect([...(await device.download(own)).data]).toEqual([1, 2])
  device.free(own, sum)
  await expect(optimizer.weightedTotal([])).rejects.toThrow('there are no tensors to sum')
})
