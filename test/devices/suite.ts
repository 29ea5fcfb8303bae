import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice, type DeviceOptions } from '../../src/model/runtime/worker-device.ts'
import { blocks } from './suite/blocks.ts'
import { caches } from './suite/caches.ts'
import { contract } from './suite/contract.ts'
import { copies } from './suite/copies.ts'
import { formats } from './suite/formats.ts'
import { operators } from './suite/operators.ts'
import { prompts } from './suite/prompts.ts'
import { rounding } from './suite/rounding.ts'
import { steps } from './suite/steps.ts'

/** A device under test. */
export interface Subject {
  readonly kind: Device['kind']
  /** Open while tests run. */
  readonly device: () => Device
  /** How far results may lie from PyTorch's on a CPU, relative to the largest. */
  readonly tolerance: Tolerance
}

export interface Tolerance {
  /** Of hidden states after one block. */
  readonly block: number
  /** Of hidden states after several, cached or not. */
  readonly hidden: number
  readonly gradient: number
  /** Of parameters after 50 steps of AdamW. */
  readonly steps: number
}

/** What every device must pass. The last tolerance is that of products with weights in float16. */
export function deviceSuite (kind: Device['kind'], tolerance: Tolerance, inFloat16: Tolerance, options: DeviceOptions = {}): void {
  describe(`the ${kind} device`, () => {
    it('refuses work after it is closed, and can be opened again', async () => {
      const closed = await openDevice(kind, options)
      await closed.close()
      await expect(closed.zeros('float32', [1])).rejects.toThrow('closed')
    })

    describe('while it is open', () => {
      parts(tolerance, options, [contract, operators, blocks, caches, prompts, formats, steps, copies])
    })
    describe('computing in fp16', () => {
      parts(inFloat16, { ...options, compute: 'fp16' }, [rounding, blocks, caches, steps])
    })
  })

  function parts (tolerance: Tolerance, options: DeviceOptions, all: ReadonlyArray<(subject: Subject) => void>): void {
    let device: Device
    beforeAll(async () => { device = await openDevice(kind, options) })
    afterAll(async () => { await device.close() })
    for (const part of all) describe(part.name, () => { part({ kind, device: () => device, tolerance }) })
  }
}
