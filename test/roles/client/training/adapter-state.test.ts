import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device, DeviceTensor } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { Optimizer } from '../../../../src/model/training/optimizer.ts'
import { Parameters } from '../../../../src/model/training/parameters.ts'
import { AdapterState, type AdapterStateComponents } from '../../../../src/roles/client/training/adapter-state.ts'
import { float32 } from '../../../../src/tensor.ts'

const NAME = '0.self_attn.q_proj.lora_A'

describe('the gradients of a client\'s own blocks', () => {
  let device: Device
  let state: AdapterState
  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    const optimizer = await Optimizer.open(device, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 })
    const parameters = await Parameters.create(device, new Map([[NAME, await device.zeros('float32', [2])]]))
    state = await AdapterState.open({ device, optimizer, parameters } as AdapterStateComponents)
  })
  afterAll(async () => { await device.close() })

  const gradients = async (...values: number[]): Promise<Map<string, DeviceTensor>> =>
    new Map([[NAME, await device.upload(float32([2], values))]])

  it('have a norm', async () => {
    expect(await state.norm(await gradients(3, 4))).toBe(5)
  })

  it.each([NaN, Infinity, 3e38])('are refused with %d among them: a step would spoil its adapters', async (value) => {
    await expect(state.norm(await gradients(1, value))).rejects.toMatchObject({ code: 'E_GRADIENT_OVERFLOW' })
  })
})
