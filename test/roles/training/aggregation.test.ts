import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/open.ts'
import { GradientSum } from '../../../src/model/training/gradient-sum.ts'
import { Optimizer } from '../../../src/model/training/optimizer.ts'
import { FederatedAdapters, type FederatedAdaptersComponents } from '../../../src/roles/training/aggregation/federated-adapters.ts'
import { float32 } from '../../../src/tensor.ts'

const SIZE = 4
const PARTS = 3

describe('gradients of a round', () => {
  let device: Device
  let optimizer: Optimizer
  let adapters: FederatedAdapters
  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    optimizer = await Optimizer.open(device, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 })
    adapters = new FederatedAdapters({ optimizer } as FederatedAdaptersComponents)
  })
  afterAll(async () => { await device.close() })

  const gradients = async (value: number): Promise<Map<string, DeviceTensor>> =>
    new Map([['0.lora_A', await device.upload(float32([SIZE], new Float32Array(SIZE).fill(value)))]])

  it('have a sum to step with when each has its share of it at most', async () => {
    const sum = new GradientSum(device)
    for (let part = 0; part < PARTS; part++) {
      const share = await gradients(0.99e18 / PARTS / Math.sqrt(SIZE))
      expect(await adapters.isSummable(share, PARTS)).toBe(true)
      expect(await adapters.isSummable(share, PARTS + 1)).toBe(false)
      await sum.add(share)
    }
    expect(await optimizer.norm(sum.gradients.values())).toBeCloseTo(0.99e18, -14)
  })

  it.each([NaN, Infinity, -Infinity, 3e38, 1e19])('have none with %d in one of them', async (value) => {
    expect(await adapters.isSummable(await gradients(value), 1)).toBe(false)
  })
})
