/** Clocks that are set over the network differ by less than a second. A minute more or less in an expiry is none that anybody notices. */
const NOTABLE_MS = 60_000

const MINUTE_MS = 60_000

const UNITS = [['day', 86_400_000], ['hour', 3_600_000], ['minute', MINUTE_MS]] as const

/** The last instant that a Date can have, in milliseconds since 1970. */
const LAST_DATE_MS = 8.64e15

/** Says whether a Date can have this time, in milliseconds since 1970: later ones have no text. */
export function isDate (ms: number): boolean {
  return ms >= 0 && ms <= LAST_DATE_MS
}

/**
 * Says how this machine's clock differs from a server's, which stands at `serverTimeMs`. Returns undefined where the server did not say its
 * time, or where the difference is too small to explain anything.
 */
export function clockDifference (serverTimeMs: number | undefined, nowMs: number): string | undefined {
  if (serverTimeMs === undefined) return undefined
  const aheadMs = nowMs - serverTimeMs
  if (Math.abs(aheadMs) < NOTABLE_MS) return undefined
  return `this machine's clock is ${durationText(Math.abs(aheadMs))} ${aheadMs > 0 ? 'ahead of' : 'behind'} the server's`
}

/** Writes a duration to the minute, in its two largest units: "1 day 2 hours", "5 minutes". */
function durationText (ms: number): string {
  const parts: string[] = []
  let left = Math.round(ms / MINUTE_MS) * MINUTE_MS
  for (const [name, unitMs] of UNITS) {
    const count = Math.floor(left / unitMs)
    left -= count * unitMs
    if (count > 0) parts.push(`${count} ${name}${count === 1 ? '' : 's'}`)
  }
  return parts.slice(0, 2).join(' ')
}
