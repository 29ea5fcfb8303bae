import type { DataFound } from '../../api/fields.ts'
import { digits, plural } from '../format.ts'

type DataLine = DataFound['notices'][number]

/** Lines named one by one before the rest is only counted. */
const MAX_SHOWN = 5

/** Returns the lines of text that name records that cannot be used, and those used otherwise than given; none where all is well. */
export function foundText (
  { recordsRead, skipped, skippedLines, noticed, notices }: DataFound
): readonly string[] {
  const share = digits(skipped / recordsRead * 100)
  return [
    ...(skipped === 0 ? [] : listed(`${skipped} of ${plural(recordsRead, 'record')} (${share}%) cannot be used:`, skippedLines, skipped)),
    ...(noticed === 0 ? [] : listed(`${plural(noticed, 'remark')} on records that are used:`, notices, noticed))
  ]
}

/** Names the first of some lines under a heading, and says how many more there are. */
function listed (heading: string, lines: readonly DataLine[], count: number): readonly string[] {
  const named = lines.slice(0, MAX_SHOWN).map(({ file, line, reason }) => `  ${file === undefined ? '' : `${file} `}line ${line}: ${reason}`)
  const rest = count - named.length
  return [heading, ...named, ...(rest > 0 ? [`  and ${rest} more`] : [])]
}
