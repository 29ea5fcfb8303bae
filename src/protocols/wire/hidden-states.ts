import { encodedType, type Encoding } from '../../encoding.ts'
import { isWithinMagnitude, type Tensor } from '../../tensor.ts'
import { BadMessageError } from './errors.ts'

/** Far above any activation, gradient or adapter; the squares of a whole model's worth of such values still have a float32 sum. */
const MAX_MAGNITUDE = 1e9

/**
 * Checks that tensors from a peer are `rows` rows of `hidden` values of sane size in the agreed encoding. One value that is not finite
 * would spoil the gradient of every client that shares a round with it. Throws BadMessageError.
 */
export function checkHiddenStates (tensors: readonly Tensor[], expected: { wire: Encoding, rows: number, hidden: number }): void {
  checkHiddenShapes(tensors, expected)
  for (const part of tensors) checkMagnitude('the rows', part)
}

/** As `checkHiddenStates`, without a look at the values. Throws BadMessageError. */
export function checkHiddenShapes (tensors: readonly Tensor[], expected: { wire: Encoding, rows: number, hidden: number }): void {
  const { wire, rows, hidden } = expected
  const [values, scale, ...others] = tensors
  expectTensor('rows', values, encodedType[wire], [rows, hidden])
  if (wire === 'int8') expectTensor('scales', scale, 'float32', [rows])
  if (others.length > 0 || (wire !== 'int8' && scale !== undefined)) throw new BadMessageError('more tensors came than rows need')
}

/** Whether every value of hidden states is finite and of sane size. */
export function isSane (tensors: readonly Tensor[]): boolean {
  return tensors.length > 0 && tensors.every((part) => isWithinMagnitude(part, MAX_MAGNITUDE))
}

/** Checks a tensor's type and shape. Throws BadMessageError. */
export function expectTensor (
  what: string,
  value: Tensor | undefined,
  dtype: Tensor['dtype'],
  shape: readonly number[]
): asserts value is Tensor {
  const wanted = `${dtype} [${shape.join(', ')}]`
  if (value === undefined) throw new BadMessageError(`${what} are missing: expected ${wanted}`)
  if (value.dtype !== dtype || value.shape.length !== shape.length || value.shape.some((size, axis) => size !== shape[axis])) {
    throw new BadMessageError(`${what} came as ${value.dtype} [${value.shape.join(', ')}]: expected ${wanted}`)
  }
}

/** Checks that every value is finite and of sane size. Throws BadMessageError. */
export function checkMagnitude (what: string, value: Tensor): void {
  if (!isWithinMagnitude(value, MAX_MAGNITUDE)) throw new BadMessageError(`${what} hold values that are not finite, or far too large`)
}
