/** How many standard deviations a sum of squared standard normals lies from what is expected: chi-square with one degree a value. */
export function chiSquareDeviation (values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) ** 2
  return (sum - values.length) / Math.sqrt(2 * values.length)
}

/** Pearson's statistic over equally likely bins of the standard normal distribution, in standard deviations from its mean. */
export function normalFitDeviation (values: ArrayLike<number>, bins = 32): number {
  const counts = new Float64Array(bins)
  for (let i = 0; i < values.length; i++) {
    const bin = Math.min(bins - 1, Math.floor(normalCdf(values[i] as number) * bins))
    counts[bin] = (counts[bin] as number) + 1
  }
  const expected = values.length / bins
  const statistic = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
  return (statistic - (bins - 1)) / Math.sqrt(2 * (bins - 1))
}

/** Abramowitz and Stegun 26.2.17: within 7.5e-8. */
function normalCdf (x: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(x))
  const tail = Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI) * t *
    (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
  return x < 0 ? tail : 1 - tail
}

/** The correlation of neighbours `lag` apart, in standard deviations of that of independent values. */
export function correlationDeviation (values: ArrayLike<number>, lag: number): number {
  let sum = 0
  for (let i = lag; i < values.length; i++) sum += (values[i] as number) * (values[i - lag] as number)
  return sum / Math.sqrt(values.length - lag)
}

/** L2 norms of the rows of [rows, hidden]. */
export function rowNorms (values: ArrayLike<number>, hidden: number): number[] {
  return Array.from({ length: values.length / hidden }, (_, row) => {
    let sum = 0
    for (let i = row * hidden; i < (row + 1) * hidden; i++) sum += (values[i] as number) ** 2
    return Math.sqrt(sum)
  })
}
