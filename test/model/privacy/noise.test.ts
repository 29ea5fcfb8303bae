import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Encoding } from '../../../src/encoding.ts'
import { Boundary, noiseDeviation } from '../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { chiSquareDeviation, correlationDeviation, normalFitDeviation, rowNorms } from '../../helpers/statistics.ts'
import { arrivedAt, boundariesOn, HIDDEN as hidden, rowsOf, type Boundaries } from './boundaries.ts'

let device: Device
let boundaries: Boundaries
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
  boundaries = boundariesOn(device)
})
afterAll(async () => { await device.close() })

const arrived = async (rounding: Encoding, tensors: readonly Tensor[]): Promise<Float32Array> =>
  await arrivedAt(device, boundaries[rounding], tensors)

/** Standardised noise of so many released rows. */
async function noiseOf (rows: Tensor, protection: { clip: number, noise: number }): Promise<Float64Array> {
  const clean = await arrived('fp32', (await boundaries.fp32.protect(rows, { ...protection, noise: 0 })).tensors)
  const noisy = await arrived('fp32', (await boundaries.fp32.protect(rows, protection)).tensors)
  const deviation = noiseDeviation(protection, hidden)
  return Float64Array.from(noisy, (value, i) => (value - (clean[i] as number)) / deviation)
}

describe('the noise', () => {
  const protection = { clip: 0.8, noise: 0.5 }

  it('is normal, with the configured deviation on every coordinate', async () => {
    const noise = await noiseOf(rowsOf(4096), protection)
    expect(Math.abs(chiSquareDeviation(noise))).toBeLessThan(5)
    expect(Math.abs(normalFitDeviation(noise))).toBeLessThan(6)
    expect(Math.abs(noise.reduce((sum, value) => sum + value, 0)) / Math.sqrt(noise.length)).toBeLessThan(5)
    for (const coordinate of [0, 31, 32, 63]) {
      expect(Math.abs(chiSquareDeviation(noise.filter((_, i) => i % hidden === coordinate)))).toBeLessThan(5)
    }
  })

  it('has rows as long as the clip times its scale', async () => {
    for (const scale of [0.1, 1, 10]) {
      const norms = rowNorms(await noiseOf(rowsOf(512), { clip: 2, noise: scale }), hidden)
      // In units of the deviation a row is as long as the square root of its coordinates.
      expect(norms.reduce((sum, norm) => sum + norm, 0) / norms.length / Math.sqrt(hidden)).toBeCloseTo(1, 1)
    }
  })

  it('does not depend on its neighbours, on the other half of its pair or on other rows', async () => {
    const noise = await noiseOf(rowsOf(4096), protection)
    for (const lag of [1, hidden / 2, hidden]) expect(Math.abs(correlationDeviation(noise, lag))).toBeLessThan(5)
  })

  it('is drawn afresh for every release of the same rows', async () => {
    const rows = rowsOf(256)
    const [first, second] = [await noiseOf(rows, protection), await noiseOf(rows, protection)]
    expect(Math.abs(chiSquareDeviation(first.map((value, i) => (value - (second[i] as number)) / Math.SQRT2)))).toBeLessThan(5)
    const sum = first.reduce((total, value, i) => total + value * (second[i] as number), 0)
    expect(Math.abs(sum) / Math.sqrt(first.length)).toBeLessThan(5)
  })

  it('is there in every rounding', async () => {
    const rows = rowsOf(1024)
    for (const rounding of ['fp16', 'int8'] as const) {
      const clean = await arrived(rounding, (await boundaries[rounding].protect(rows, { ...protection, noise: 0 })).tensors)
      const noisy = await arrived(rounding, (await boundaries[rounding].protect(rows, protection)).tensors)
      const deviation = noiseDeviation(protection, hidden)
      const squares = noisy.reduce((sum, value, i) => sum + ((value - (clean[i] as number)) / deviation) ** 2, 0)
      // Encoding adds a little of its own: an int8 step is about a fortieth of the deviation's range.
      expect(squares / noisy.length).toBeGreaterThan(0.97)
      expect(squares / noisy.length).toBeLessThan(1.05)
    }
  })

  it('hides rows of an odd number of values too', async () => {
    const odd = new Boundary(device, { hidden: 5, rounding: 'fp32' })
    const { tensors: [values] } = await odd.protect(float32([2000, 5], new Float32Array(10_000)), { clip: Math.sqrt(5), noise: 1 })
    expect(Math.abs(chiSquareDeviation((values as Tensor).data as Float32Array))).toBeLessThan(5)
  })

  it('never repeats', async () => {
    const rows = float32([64, hidden], new Float32Array(64 * hidden))
    const draws = await Promise.all(Array.from({ length: 20 }, async () => await noiseOf(rows, { clip: 1, noise: 1 })))
    // Four values at a time: two equal ones among these come by chance once in 10^20 runs.
    const parts = draws.flatMap((draw) => Array.from({ length: draw.length / 4 }, (_, i) => draw.subarray(4 * i, 4 * i + 4).join()))
    expect(new Set(parts).size).toBe(parts.length)
  })
})

describe('a device behind the boundary', () => {
  it('holds no more after releases than before', async () => {
    const { heldBytes } = await device.memory()
    for (const rounding of ['fp32', 'fp16', 'int8'] as const)
      await arrived(rounding, (await boundaries[rounding].protect(rowsOf(10), { clip: 1, noise: 1 })).tensors)
    expect((await device.memory()).heldBytes).toBe(heldBytes)
  })
})
