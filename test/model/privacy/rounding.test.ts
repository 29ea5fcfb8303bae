import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Encoding } from '../../../src/encoding.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { rowNorms } from '../../helpers/statistics.ts'
import { arrivedAt, boundariesOn, HIDDEN as hidden, rowsOf, type Boundaries } from './boundaries.ts'

/** Rows too many to be converted without a program. */
const MANY = 1000

let device: Device
let boundaries: Boundaries
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
  boundaries = boundariesOn(device)
})
afterAll(async () => { await device.close() })

const arrived = async (rounding: Encoding, tensors: readonly Tensor[]): Promise<Float32Array> =>
  await arrivedAt(device, boundaries[rounding], tensors)

async function rounded (rounding: Encoding, values: ArrayLike<number>): Promise<Float32Array> {
  return await arrived(rounding, await boundaries[rounding].encode(float32([values.length / hidden, hidden], Float32Array.from(values))))
}

const exactly = (values: ArrayLike<number>) => Array.from(values)

describe('rounding for the wire', () => {
  const magnitude = fc.double({ min: -6e4, max: 6e4, noNaN: true })
  const row = fc.array(magnitude, { minLength: hidden, maxLength: hidden }).map((values) => Float32Array.from(values))

  it('leaves fp32 as it is', async () => {
    await fc.assert(fc.asyncProperty(row, async (values) => { expect(await rounded('fp32', values)).toEqual(values) }), { numRuns: 20 })
  })

  it('keeps fp16 within half a unit in the last place', async () => {
    await fc.assert(
      fc.asyncProperty(row, async (values) => {
        const result = await rounded('fp16', values)
        // Eleven bits of significand; below 2^-14 the steps are 2^-24.
        for (const [i, value] of values.entries())
          expect(Math.abs((result[i] as number) - value)).toBeLessThanOrEqual(Math.max(Math.abs(value) * 2 ** -11, 2 ** -25))
      }),
      { numRuns: 20 }
    )
  })

  it('converts few fp16 values as it does many, which the device does', async () => {
    const any = fc.array(fc.float({ noNaN: true }), { minLength: hidden, maxLength: hidden }).map((values) => Float32Array.from(values))
    await fc.assert(
      fc.asyncProperty(any, async (values) => {
        const [few] = await boundaries.fp16.encode(float32([1, hidden], values))
        const [many] = await boundaries.fp16.encode(
          float32([MANY, hidden], Float32Array.from({ length: MANY * hidden }, (_, i) => values[i % hidden]!))
        )
        expect(few!.data).toEqual(many!.data.slice(0, hidden))
        expect(await arrived('fp16', [few!])).toEqual((await arrived('fp16', [many!])).slice(0, hidden))
      }),
      { numRuns: 30 }
    )
  })

  it('keeps int8 within half a step of its row', async () => {
    await fc.assert(fc.asyncProperty(row, async (values) => {
      const result = await rounded('int8', values)
      const step = Math.max(...values.map(Math.abs)) / 127
      for (const [i, value] of values.entries()) expect(Math.abs((result[i] as number) - value)).toBeLessThanOrEqual(step * 0.5001 + 1e-35)
    }), { numRuns: 20 })
  })

  it('saturates fp16 instead of sending infinity', async () => {
    const values = new Float32Array(hidden).fill(1)
    values.set([1e6, -1e6, 65_519, 65_520])
    expect(exactly((await rounded('fp16', values)).slice(0, 5))).toEqual([65_504, -65_504, 65_504, 65_504, 1])
  })

  it('gives every int8 row its own scale', async () => {
    const values = new Float32Array(2 * hidden)
    values.fill(1e-3, 0, hidden).fill(1e3, hidden)
    const result = await rounded('int8', values)
    expect(result[0]).toBeCloseTo(1e-3, 8)
    expect(result[hidden]).toBeCloseTo(1e3, 2)
  })

  it('sends rows of zeros as zeros', async () => {
    for (const rounding of ['fp32', 'fp16', 'int8'] as const)
      expect(exactly(await rounded(rounding, new Float32Array(hidden)))).toEqual(exactly(new Float32Array(hidden)))
  })
})

describe('the clip', () => {
  it('shortens longer rows to its norm, keeps their direction, and leaves the others as they are', async () => {
    const rows = rowsOf(90)
    const before = rowNorms(rows.data as Float32Array, hidden)
    const { tensors, clippedFraction } = await boundaries.fp32.protect(rows, { clip: 1, noise: 0 })
    const released = await arrived('fp32', tensors)
    const after = rowNorms(released, hidden)
    for (const [row, norm] of before.entries()) {
      const own = released.subarray(row * hidden, (row + 1) * hidden)
      const original = (rows.data as Float32Array).subarray(row * hidden, (row + 1) * hidden)
      if (norm <= 1) expect(own).toEqual(original)
      else expect(after[row]).toBeCloseTo(1, 5)
      const cosine = own.reduce((sum, value, i) => sum + value * (original[i] as number), 0) / norm / (after[row] as number)
      expect(cosine).toBeCloseTo(1, 5)
    }
    expect(clippedFraction).toBeCloseTo(before.filter((norm) => norm > 1).length / before.length, 6)
  })

  it('says that all rows were clipped, or none', async () => {
    expect((await boundaries.fp16.protect(rowsOf(9), { clip: 1e-6, noise: 0 })).clippedFraction).toBe(1)
    expect((await boundaries.fp16.protect(rowsOf(9), { clip: 1e6, noise: 0 })).clippedFraction).toBe(0)
  })
})
