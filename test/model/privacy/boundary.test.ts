import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Encoding } from '../../../src/encoding.ts'
import { Boundary, noiseDeviation } from '../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const HIDDEN = 64

const rowsOf = (count: number, scale = 1): Tensor =>
  float32([count, HIDDEN], Float32Array.from({ length: count * HIDDEN }, (_, i) => scale * Math.sin(i * 12.9898) * (1 + i % 7)))
const boundary = (rounding: Encoding = 'fp32', hidden = HIDDEN): Boundary => new Boundary(device, { hidden, rounding })

async function decoded (at: Boundary, tensors: readonly Tensor[]): Promise<Float32Array> {
  const rows = await at.decode(tensors)
  const { data } = await device.download(rows)
  device.free(rows)
  return data as Float32Array
}

function norms (rows: Float32Array, hidden = HIDDEN): number[] {
  return Array.from({ length: rows.length / hidden }, (_, row) => Math.hypot(...rows.subarray(row * hidden, (row + 1) * hidden)))
}

describe('Boundary', () => {
  it('without clip and noise gives float32 rows exactly as they are', async () => {
    const rows = rowsOf(5)
    const { tensors, clippedFraction } = await boundary().protect(rows, { clip: null, noise: 0 })
    expect(tensors[0]!.data).toEqual(rows.data)
    expect(clippedFraction).toBe(0)
  })

  it('refuses noise without a clip to measure it by', async () => {
    await expect(boundary().protect(rowsOf(1), { clip: null, noise: 1 })).rejects.toThrow('relative to the clip')
  })

  it('brings long rows down to the clip, keeps short ones, and tells how many were long', async () => {
    const rows = rowsOf(8)
    ;(rows.data as Float32Array).subarray(0, 2 * HIDDEN).fill(0.01)
    const { tensors, clippedFraction } = await boundary().protect(rows, { clip: 3, noise: 0 })
    const released = tensors[0]!.data as Float32Array
    expect(clippedFraction).toBe(6 / 8)
    expect(released.subarray(0, 2 * HIDDEN)).toEqual((rows.data as Float32Array).subarray(0, 2 * HIDDEN))
    for (const norm of norms(released).slice(2)) expect(norm).toBeCloseTo(3, 5)
  })

  it('takes a gradient back through the clip: the derivative of rows above it and on either side', async () => {
    const [count, clip] = [6, 3]
    const rows = rowsOf(count)
    const values = rows.data as Float32Array
    values.subarray(0, HIDDEN).fill(0)
    values.subarray(HIDDEN, 2 * HIDDEN).fill(0.01)
    const weights = Float32Array.from({ length: count * HIDDEN }, (_, i) => Math.cos(i * 1.7))
    const at = boundary()
    const held = [await device.upload(rows), await device.upload(float32([count, HIDDEN], weights))] as const
    const result = await at.clipBackward(...held, { clip, noise: 0.5 })
    const gradient = (await device.download(result)).data as Float32Array
    device.free(...held, result)
    // In float64, of the sum of weights times clipped rows, which is linear or smooth at each of these rows.
    const clippedSum = (row: number, column: number, change: number): number => {
      const moved = Float64Array.from(values.subarray(row * HIDDEN, (row + 1) * HIDDEN))
      moved[column] = (moved[column] as number) + change
      const scale = Math.min(1, clip / Math.max(Math.hypot(...moved), 1e-30))
      return moved.reduce((sum, value, i) => sum + value * scale * (weights[row * HIDDEN + i] as number), 0)
    }
    const step = 1e-5
    for (let row = 0; row < count; row++) {
      for (const column of [0, 7, HIDDEN - 1]) {
        const numeric = (clippedSum(row, column, step) - clippedSum(row, column, -step)) / (2 * step)
        expect(gradient[row * HIDDEN + column]).toBeCloseTo(numeric, 4)
      }
    }
    expect(gradient.subarray(0, 2 * HIDDEN)).toEqual(weights.subarray(0, 2 * HIDDEN))
  })

  it('has no way back through a clip that there is not', async () => {
    const held = await device.upload(rowsOf(1))
    await expect(boundary().clipBackward(held, held, { clip: null, noise: 0 })).rejects.toThrow('were not clipped')
    device.free(held)
  })

  it('adds Gaussian noise of the given deviation, independent in rows and columns', async () => {
    const count = 4000
    const zeros = float32([count, HIDDEN], new Float32Array(count * HIDDEN))
    const sigma = noiseDeviation({ clip: 2, noise: 0.5 }, HIDDEN)
    expect(sigma).toBeCloseTo(0.125, 12)
    const { tensors } = await boundary().protect(zeros, { clip: 2, noise: 0.5 })
    const draws = (tensors[0]!.data as Float32Array).map((value) => value / sigma)
    const mean = draws.reduce((sum, value) => sum + value, 0) / draws.length
    const variance = draws.reduce((sum, value) => sum + value * value, 0) / draws.length
    const kurtosis = draws.reduce((sum, value) => sum + value ** 4, 0) / draws.length
    const neighbours = draws.reduce((sum, value, i) => sum + value * (draws[i + 1] ?? 0), 0) / draws.length
    const halves = draws.reduce((sum, value, i) => sum + value * (draws[i + HIDDEN / 2] ?? 0), 0) / draws.length
    // Six standard errors of each statistic: a false alarm once in 10^8 runs.
    const error = 6 / Math.sqrt(draws.length)
    expect(Math.abs(mean)).toBeLessThan(error)
    expect(Math.abs(variance - 1)).toBeLessThan(error * Math.SQRT2)
    expect(Math.abs(kurtosis - 3)).toBeLessThan(error * Math.sqrt(96))
    expect(Math.abs(neighbours)).toBeLessThan(error)
    expect(Math.abs(halves)).toBeLessThan(error)
    // Chi-square over 32 equally likely bins: 31 degrees of freedom exceed 100 once in 10^8.
    const bins = new Array<number>(32).fill(0)
    for (const draw of draws) bins[Math.min(31, Math.floor(normalCumulative(draw) * 32))]! += 1
    const expected = draws.length / 32
    expect(bins.reduce((sum, bin) => sum + (bin - expected) ** 2 / expected, 0)).toBeLessThan(100)
  })

  it('never draws the same noise twice', async () => {
    const at = boundary()
    const releases = await Promise.all(
      Array.from({ length: 4 }, async () => (await at.protect(rowsOf(2), { clip: 1, noise: 1 })).tensors[0]!)
    )
    const values = releases.flatMap(({ data }) => [...data as Float32Array])
    expect(new Set(values).size).toBeGreaterThan(values.length * 0.99)
  })

  it('draws noise for an odd number of values', async () => {
    const { tensors } = await boundary('fp32', 7).protect(float32([3, 7], new Float32Array(21)), { clip: 1, noise: 1 })
    expect(tensors[0]!.shape).toEqual([3, 7])
    expect([...tensors[0]!.data as Float32Array].every((value) => Number.isFinite(value) && value !== 0)).toBe(true)
  })

  it('rounds to float16 and back within its precision, without overflow', async () => {
    const at = boundary('fp16')
    const rows = rowsOf(3)
    ;(rows.data as Float32Array)[0] = 1e6
    const { tensors } = await at.protect(rows, { clip: null, noise: 0 })
    expect(tensors).toMatchObject([{ dtype: 'float16', shape: [3, HIDDEN] }])
    const back = await decoded(at, tensors)
    expect(back[0]).toBe(65504)
    for (let i = 1; i < back.length; i++)
      expect(Math.abs(back[i]! - (rows.data[i] as number))).toBeLessThanOrEqual(Math.abs(rows.data[i] as number) * 2 ** -11 + 2 ** -25)
  })

  it('rounds to int8 with a scale a row, within half a step; rows of zeros stay zeros', async () => {
    const at = boundary('int8')
    const rows = rowsOf(4)
    ;(rows.data as Float32Array).subarray(0, HIDDEN).fill(0)
    const { tensors } = await at.protect(rows, { clip: null, noise: 0 })
    expect(tensors).toMatchObject([{ dtype: 'int8', shape: [4, HIDDEN] }, { dtype: 'float32', shape: [4] }])
    const back = await decoded(at, tensors)
    for (let row = 0; row < 4; row++) {
      const step = Math.max(...(rows.data as Float32Array).subarray(row * HIDDEN, (row + 1) * HIDDEN).map(Math.abs)) / 127
      for (let i = row * HIDDEN; i < (row + 1) * HIDDEN; i++)
        expect(Math.abs(back[i]! - (rows.data[i] as number))).toBeLessThanOrEqual(step * 0.5001)
    }
  })

  it.each(['fp32', 'fp16', 'int8'] as const)('takes rows that are on the device, and leaves them there (%s)', async (rounding) => {
    const at = boundary(rounding)
    const rows = await device.upload(rowsOf(2))
    const [fromDevice, fromHost] = [await at.protect(rows, { clip: 1, noise: 0 }), await at.protect(rowsOf(2), { clip: 1, noise: 0 })]
    expect(fromDevice).toEqual(fromHost)
    device.free(rows)
  })
})

/** The standard normal distribution's cumulative function, by Abramowitz and Stegun 7.1.26 (error below 1.5e-7). */
function normalCumulative (x: number): number {
  const t = 1 / (1 + 0.3275911 * Math.abs(x) / Math.SQRT2)
  const tail = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-x * x / 2) / 2
  return x < 0 ? tail : 1 - tail
}
