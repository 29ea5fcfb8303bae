const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const

/** Formats a number with three significant digits: 1234 → "1230", 0.01234 → "0.0123". */
export function digits (value: number): string {
  if (!Number.isFinite(value)) return String(value)
  return Math.abs(value) >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(3)))
}

/** Formats a loss in nats with four decimals, or says that it is not a number. */
export function lossText (loss: number | null): string {
  return loss === null ? 'not a number' : loss.toFixed(4)
}

/** Formats a count of bytes: 1536 → "1.5 KiB". */
export function bytes (count: number): string {
  let value = count
  let unit = 0
  while (value >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? digits(value) : value.toFixed(1)} ${BYTE_UNITS[unit]}`
}

/** Formats a duration in seconds: 3725 → "1h02m", 65 → "1m05s", 4.2 → "4.2s". */
export function seconds (value: number): string {
  if (value < 10) return `${value.toFixed(1)}s`
  const whole = Math.round(value)
  if (whole < 60) return `${whole}s`
  const pad = (part: number): string => String(part).padStart(2, '0')
  const minutes = Math.floor(whole / 60)
  return minutes < 60 ? `${minutes}m${pad(whole % 60)}s` : `${Math.floor(minutes / 60)}h${pad(minutes % 60)}m`
}

/** Formats a count with its noun: 3 → "3 blocks", 1 → "1 block". */
export function plural (count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`
}

/** Names the two spans of a client: "the first block and the last 2 blocks", "the embedding alone and the last block". */
export function endSpans ({ inputBlocks, outputBlocks }: { readonly inputBlocks: number, readonly outputBlocks: number }): string {
  const blocks = (which: string, count: number): string => `the ${which} ${count === 1 ? 'block' : `${count} blocks`}`
  return `${inputBlocks === 0 ? 'the embedding alone' : blocks('first', inputBlocks)} and ${
    outputBlocks === 0 ? 'the head alone' : blocks('last', outputBlocks)
  }`
}

/** Lays rows of cells out as columns, two spaces apart. Returns one line a row. */
export function table (rows: ReadonlyArray<readonly string[]>): string[] {
  const widths: number[] = []
  for (const row of rows) row.forEach((cell, column) => { widths[column] = Math.max(widths[column] ?? 0, cell.length) })
  return rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd())
}
