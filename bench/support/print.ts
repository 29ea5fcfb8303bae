/** The middle one of these numbers. */
export function median (values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN
}

/** What a tenth of these numbers is below: on a machine that others use, nearer to its own speed than the middle. */
export function fastest (values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 10)] ?? NaN
}

/** Median, least and most of these numbers. */
export function spread (values: readonly number[], digits = 0): string {
  return `${median(values).toFixed(digits)} [${Math.min(...values).toFixed(digits)}-${Math.max(...values).toFixed(digits)}]`
}

/** Prints rows under columns, each as wide as it needs. */
export function printTable (columns: readonly string[], rows: ReadonlyArray<readonly string[]>): void {
  const lines = [columns, ...rows]
  const widths = columns.map((_, index) => Math.max(...lines.map((line) => line[index]?.length ?? 0)))
  for (const line of lines)
    console.log(line.map((cell, index) => index === 0 ? cell.padEnd(widths[index] ?? 0) : cell.padStart(widths[index] ?? 0)).join('  '))
}
