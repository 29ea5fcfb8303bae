import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Encoding } from '../../../src/encoding.ts'
import { Boundary, type Protection } from '../../../src/model/privacy/boundary.ts'
import { isDeferred, type AnyTensor, type Deferred, type Device } from '../../../src/model/runtime/device.ts'
import { Scope } from '../../../src/model/runtime/scope.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'

const HIDDEN = 12
const ROWS = 6

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const boundary = (rounding: Encoding): Boundary => new Boundary(device, { hidden: HIDDEN, rounding })

/** Rows whose norms are on either side of 3. */
const rowsOf = (phase: number): Tensor =>
  float32(
    [ROWS, HIDDEN],
    Float32Array.from({ length: ROWS * HIDDEN }, (_, i) => (0.3 + Math.floor(i / HIDDEN)) * Math.sin(i * 1.7 + phase))
  )

async function valuesOf (at: Boundary, rows: AnyTensor | Deferred): Promise<Float32Array> {
  using scope = new Scope(device)
  return (await device.download(scope.own(await at.computed(rows)))).data as Float32Array
}

const decoded = async (at: Boundary, tensors: readonly Tensor[]): Promise<Float32Array> => await valuesOf(at, await at.decoding(tensors))

describe('a residual stream that stays', () => {
  it.each(['fp32', 'fp16', 'int8'] as const)('is the rows as they were, with what was added to those that left (%s)', async (rounding) => {
    const at = boundary(rounding)
    const [rows, added] = [rowsOf(0), rowsOf(1).data as Float32Array]
    for (const protection of [{ clip: 3, noise: 0.5 }, { clip: 3, noise: 0 }, { clip: null, noise: 0 }]) {
      const { tensors } = await at.protect(rows, protection)
      const released = await decoded(at, tensors)
      const back = float32(rows.shape, released.map((value, i) => value + (added[i] as number)))
      const whole = await valuesOf(at, await at.keepStream(rows, tensors, back))
      for (const [i, value] of whole.entries()) expect(value).toBeCloseTo((rows.data[i] as number) + (added[i] as number), 4)
    }
  })

  it('is what came back, to the bit, where the rows left as they were', async () => {
    const at = boundary('fp32')
    const [rows, back] = [rowsOf(0), rowsOf(2)]
    const { tensors } = await at.protect(rows, { clip: null, noise: 0 })
    expect(await valuesOf(at, await at.keepStream(rows, tensors, back))).toEqual(back.data)
  })

  it('comes with a release of rows that are still to be computed', async () => {
    const at = boundary('fp16')
    const { tensors } = await at.protect(rowsOf(0), { clip: null, noise: 0 })
    const rows = await at.decoding(tensors)
    const deferred = isDeferred(rows) ? rows : await at.keepStream(rows, tensors, rows)
    for (const protection of [{ clip: 3, noise: 0.5 }, { clip: null, noise: 0 }]) {
      const release = await at.protect(deferred, protection, { count: ROWS, keepRows: true })
      expect(release.rows!.data).toEqual(await decoded(at, tensors))
      expect((await at.protect(deferred, protection, { count: ROWS })).rows).toBeUndefined()
    }
  })
})

describe('the way back through a residual stream that stays', () => {
  const clip = 3

  /** The middle: it takes a row r to r + sin(r) / 2 + r_i r_(i+1) / 10. */
  const through = (row: Float64Array): Float64Array =>
    row.map((value, i) => value + Math.sin(value) / 2 + value * (row[(i + 1) % HIDDEN] as number) / 10)

  /** The gradient of the middle's rows, from that of what it gives. */
  const throughBackward = (row: Float64Array, gradient: ArrayLike<number>): Float64Array =>
    row.map((value, i) => {
      const [before, after] = [(i + HIDDEN - 1) % HIDDEN, (i + 1) % HIDDEN]
      return (gradient[i] as number) * (1 + Math.cos(value) / 2 + (row[after] as number) / 10) +
        (gradient[before] as number) * (row[before] as number) / 10
    })

  const clipped = (row: Float64Array): Float64Array => {
    const scale = Math.min(1, clip / Math.hypot(...row))
    return row.map((value) => value * scale)
  }

  /** What enters the top: h + (f - r). */
  const whole = (row: Float64Array): Float64Array => {
    const released = clipped(row)
    return through(released).map((value, i) => (row[i] as number) + value - (released[i] as number))
  }

  /** The loss of the top, and its gradient for what enters. */
  const loss = (row: Float64Array): number => row.reduce((sum, value, i) => sum + Math.cos(i) * value + value * value / 20, 0)
  const lossGradient = (row: Float64Array): Float64Array => row.map((value, i) => Math.cos(i) + value / 10)

  const rowAt = (values: ArrayLike<number>, row: number): Float64Array =>
    Float64Array.from({ length: HIDDEN }, (_, i) => values[row * HIDDEN + i] as number)
  const perRow = (values: ArrayLike<number>, map: (row: Float64Array, index: number) => Float64Array): Tensor =>
    float32([ROWS, HIDDEN], Array.from({ length: ROWS }, (_, row) => [...map(rowAt(values, row), row)]).flat())

  /** The gradient for the rows as a client computes it from what comes down. */
  async function backward (
    rows: Tensor,
    gradient: Tensor,
    released: readonly Tensor[],
    down: Tensor,
    protection: Protection
  ): Promise<Float32Array> {
    const at = boundary('fp32')
    using scope = new Scope(device)
    const [h, g] = [await scope.upload(rows), await scope.upload(gradient)]
    const back = await at.keepStream(g, released, down)
    return (await device.download(scope.own(await at.clipBackward(h, back, protection, g)))).data as Float32Array
  }

  it('is the derivative: what stays passes no clip, what the middle adds does', async () => {
    const rows = rowsOf(0)
    const gradient = perRow(rows.data as Float32Array, (row) => lossGradient(whole(row)))
    const down = perRow(rows.data as Float32Array, (row, i) => throughBackward(clipped(row), rowAt(gradient.data as Float32Array, i)))
    const analytic = await backward(rows, gradient, [gradient], down, { clip, noise: 0 })
    const step = 1e-5
    for (let row = 0; row < ROWS; row++) {
      for (const column of [0, 5, HIDDEN - 1]) {
        const at = (change: number): number => {
          const moved = rowAt(rows.data as Float32Array, row)
          moved[column] = (moved[column] as number) + change
          return loss(whole(moved))
        }
        expect(analytic[row * HIDDEN + column]).toBeCloseTo((at(step) - at(-step)) / (2 * step), 4)
      }
    }
  })

  it('has no noise of the gradient that left, but in what the middle adds', async () => {
    const [rows, gradient] = [rowsOf(0), rowsOf(3)]
    const { tensors } = await boundary('fp32').protect(gradient, { clip: 3, noise: 4 })
    // A middle that adds nothing gives back what went up.
    const result = await backward(rows, gradient, tensors, tensors[0]!, { clip, noise: 0.5 })
    for (const [i, value] of result.entries()) expect(value).toBeCloseTo(gradient.data[i] as number, 4)
  })
})
