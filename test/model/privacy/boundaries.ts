import type { Encoding } from '../../../src/encoding.ts'
import { Boundary } from '../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'

export const HIDDEN = 64

export type Boundaries = Readonly<Record<Encoding, Boundary>>

/** A boundary of each rounding, for rows of HIDDEN values. */
export function boundariesOn (device: Device): Boundaries {
  const boundary = (rounding: Encoding): Boundary => new Boundary(device, { hidden: HIDDEN, rounding })
  return { fp32: boundary('fp32'), fp16: boundary('fp16'), int8: boundary('int8') }
}

/** Rows whose norms run from far below to far above 1. */
export function rowsOf (count: number): Tensor {
  return float32(
    [count, HIDDEN],
    Float32Array.from({ length: count * HIDDEN }, (_, i) => Math.sin(i * i + 1) * 2 ** ((Math.floor(i / HIDDEN) % 9) - 6))
  )
}

/** What came over the wire, as the other side decodes it. */
export async function arrivedAt (device: Device, boundary: Boundary, tensors: readonly Tensor[]): Promise<Float32Array> {
  const rows = await boundary.decode(tensors)
  const { data } = await device.download(rows)
  device.free(rows)
  return data as Float32Array
}
