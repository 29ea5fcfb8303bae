import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device, DeviceTensor } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { Optimizer } from '../../../../src/model/training/optimizer.ts'
import { GATE, WithheldGate } from '../../../../src/roles/client/training/withheld-gate.ts'
import { float32 } from '../../../../src/tensor.ts'

const STEP = { learningRate: 0.1, scale: 1 }

describe('the gate of withheld words', () => {
  let device: Device
  let root: string
  let gradients: Map<string, DeviceTensor>
  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    root = await mkdtemp(join(tmpdir(), 'midspan-gate-'))
    gradients = new Map([[GATE, await device.upload(float32([3], [1, -1, 2]))]])
  })
  afterAll(async () => {
    await device.close()
    await rm(root, { recursive: true, force: true })
  })

  const open = async (name: string, more: Partial<Parameters<typeof WithheldGate.open>[0]> = {}): Promise<WithheldGate> =>
    await WithheldGate.open({
      device,
      optimizer: await Optimizer.open(device, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }),
      hidden: 3,
      path: join(root, name),
      federation: 'f',
      ...more
    })

  const values = ({ value }: WithheldGate): number[] => Array.from(value.data as Float32Array, (each) => Number(each.toFixed(4)))

  it('is a half where no file is', async () => {
    const gate = await open('none')
    expect(values(gate)).toEqual([0.5, 0.5, 0.5])
    expect(gate.wasTrained).toBe(false)
  })

  it('keeps the steps that counted, over a restart at any place', async () => {
    const gate = await open('steps')
    await gate.prepare(0, gradients, STEP)
    expect(values(gate)).toEqual([0.5, 0.5, 0.5])
    const restarted = await open('steps')
    expect(values(restarted)).toEqual([0.5, 0.5, 0.5])
    await restarted.settle(0, true)
    expect(values(restarted)).toEqual([0.4, 0.6, 0.4])
    await restarted.prepare(1, gradients, STEP)
    await restarted.settle(1, false)
    await restarted.prepare(1, gradients, STEP)
    await restarted.prepare(1, gradients, STEP)
    await restarted.settle(1, true)
    // Settled again, as by a client that was cut off before it heard: nothing is left to keep.
    const again = await open('steps')
    await again.settle(1, true)
    await gate.settle(0, true)
    await gate.prepare(1, gradients, STEP)
    await gate.settle(1, true)
    expect(values(again)).toEqual(values(gate))
  })

  it('keeps no step of another round, and none that is not finite', async () => {
    const gate = await open('others')
    await gate.prepare(3, gradients, STEP)
    await gate.settle(4, true)
    const endless = new Map([[GATE, await device.upload(float32([3], [Infinity, 1, 1]))]])
    await gate.prepare(5, endless, STEP)
    await gate.settle(5, true)
    expect(values(gate)).toEqual([0.5, 0.5, 0.5])
  })

  it('begins anew', async () => {
    const gate = await open('anew')
    await gate.prepare(0, gradients, STEP)
    await gate.settle(0, true)
    await gate.reset()
    expect(values(await open('anew'))).toEqual([0.5, 0.5, 0.5])
    await gate.prepare(0, gradients, STEP)
    await gate.settle(0, true)
    expect(values(gate)).toEqual([0.4, 0.6, 0.4])
  })

  it('refuses a file of another federation, and one of another model', async () => {
    const gate = await open('foreign')
    await gate.prepare(0, gradients, STEP)
    await expect(open('foreign', { federation: 'g' })).rejects.toMatchObject({ code: 'E_STATE' })
    await expect(open('foreign', { hidden: 4 })).rejects.toMatchObject({ code: 'E_STATE' })
  })
})
