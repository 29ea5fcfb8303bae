import { weightFormats, type WeightFormat } from '../../model/layers/weight-format.ts'
import { computeTypes, deviceKinds, type ComputeType, type DeviceKind } from '../../model/runtime/device.ts'
import { BadMessageError } from '../../protocols/wire/errors.ts'

/** What a server computes with: how far its answers may be from those of another server depends on it. */
export interface Arithmetic {
  readonly weights: WeightFormat
  readonly device: DeviceKind
  readonly compute: ComputeType
}

/** Checks what a server says that it computes with. Throws BadMessageError for words that this release does not know. */
export function checkArithmetic (said: { readonly [Key in keyof Arithmetic]: string }): Arithmetic {
  const [weights, device, compute] = [
    weightFormats.find((known) => known === said.weights),
    deviceKinds.find((known) => known === said.device),
    computeTypes.find((known) => known === said.compute)
  ]
  if (weights === undefined || device === undefined || compute === undefined)
    throw new BadMessageError('the server does not say what it computes with, or says it in words that this release does not know')
  return { weights, device, compute }
}
