import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { gateGradient, initialGate, joinOwnStream, ownLayout, scaled } from '../../../src/model/training/own-stream.ts'
import { float32 } from '../../../src/tensor.ts'

const own = float32([5, 2], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
const delta = float32([2, 2], [10, 20, 30, 40])
const gate = float32([2], [0.5, 0.25])
/** The first token is withheld, the second sent, the third withheld, the fourth sent, the fifth withheld. */
const layout = ownLayout({ sentRows: Int32Array.from([-1, 0, 0, 1, 1]), isSent: Uint8Array.from([0, 1, 0, 1, 0]) })

describe("a client's own stream", () => {
  let device: Device
  beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
  afterAll(async () => { await device.close() })

  it('has what the middle adds where a token was sent, and a part of the last of it where one was not', async () => {
    const whole = await device.download(await joinOwnStream(device, own, delta, gate, layout))
    expect([...whole.data as Float32Array]).toEqual([1, 2, 13, 24, 5 + 5, 6 + 5, 37, 48, 9 + 15, 10 + 10])
  })

  it('has the derivative for the gate', async () => {
    const gradient = float32([5, 2], [1, 1, 1, 1, 2, 3, 1, 1, 1, 1])
    const found = await device.download(await gateGradient(device, delta, gradient, layout))
    expect([...found.data as Float32Array]).toEqual([2 * 10 + 30, 3 * 20 + 40])
  })

  it('begins with a half', () => {
    expect([...initialGate(3).data as Float32Array]).toEqual([0.5, 0.5, 0.5])
  })

  it('is scaled', async () => {
    const tensors = new Map([['a', await device.upload(gate)]])
    const half = await scaled(device, tensors, 0.5)
    expect([...(await device.download(half.get('a')!)).data as Float32Array]).toEqual([0.25, 0.125])
    const same = await scaled(device, half, 1)
    expect(same.get('a')).toBe(half.get('a'))
  })
})
