import { plural } from '../format.ts'

/** Unusable lines named one by one before the rest is only counted. */
const MAX_SKIPPED_SHOWN = 5

/** Returns the lines of text that name unusable lines of a data file; none where all can be used. */
export function skippedText (skipped: ReadonlyArray<{ readonly line: number, readonly reason: string }>): readonly string[] {
  if (skipped.length === 0) return []
  const named = skipped.slice(0, MAX_SKIPPED_SHOWN).map(({ line, reason }) => `  line ${line}: ${reason}`)
  const rest = skipped.length - named.length
  return [`${plural(skipped.length, 'line')} cannot be used:`, ...named, ...(rest > 0 ? [`  and ${rest} more`] : [])]
}
