/** A ridge regression from `inputs` numbers to `outputs` numbers, by the sums over its pairs (z, y). */
export interface RidgeSums {
  readonly inputs: number
  readonly outputs: number
  /** The sum of z zᵀ [inputs, inputs]. */
  readonly zz: Float32Array
  /** The sum of z yᵀ [inputs, outputs]. */
  readonly zy: Float32Array
}

/**
 * Returns W [inputs, outputs], the solution of (zz + ridge I) W = zy, by Cholesky's decomposition in float64. It takes
 * inputs² (inputs / 6 + outputs) multiplications. Throws RangeError where the matrix is not positive definite, as it is for sums of
 * finite pairs.
 */
export function solveRidge ({ inputs: n, outputs: m, zz, zy }: RidgeSums, ridge: number): Float32Array<ArrayBuffer> {
  const l = Float64Array.from(zz)
  for (let i = 0; i < n; i++) {
    const row = l.subarray(i * n, i * n + n)
    row[i]! += ridge
    for (let j = 0; j <= i; j++) {
      const other = l.subarray(j * n, j * n + n)
      let sum = row[j]!
      for (let k = 0; k < j; k++) sum -= row[k]! * other[k]!
      if (j < i) row[j] = sum / other[j]!
      else if (sum > 0) row[i] = Math.sqrt(sum)
      else throw new RangeError('the sums are not those of finite pairs')
    }
  }
  const x = Float64Array.from(zy)
  const subtract = (from: number, what: number, factor: number): void => {
    const [target, source] = [x.subarray(from * m, from * m + m), x.subarray(what * m, what * m + m)]
    for (let k = 0; k < m; k++) target[k]! -= factor * source[k]!
  }
  const divide = (row: number): void => {
    const target = x.subarray(row * m, row * m + m)
    for (let k = 0; k < m; k++) target[k]! /= l[row * n + row]!
  }
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < i; j++) subtract(i, j, l[i * n + j]!)
    divide(i)
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let j = i + 1; j < n; j++) subtract(i, j, l[j * n + i]!)
    divide(i)
  }
  return Float32Array.from(x)
}
