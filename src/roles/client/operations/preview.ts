import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import type { Client } from '../client.ts'
import { readFirstRecords } from '../training/data.ts'

/** Shows what training would learn of the first records. Trains nothing, and asks no server. */
export async function * preview (
  { context }: Client,
  { records: wanted, ...data }: ParametersOf<'preview'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'preview'>> {
  const { first, packing, maxTokens } = await readFirstRecords(data, wanted, context.paths.model, context.charter, signal)
  for (const { file, line, ids, lossMask, texts, withheld, notice } of first.records) {
    const tokens = Array.from(ids, (id, i) => ({
      id, text: texts[i] ?? '', counted: lossMask[i] === 1, ...(withheld === undefined ? {} : { withheld: withheld[i] === 1 })
    }))
    yield {
      type: 'record',
      ...(file === undefined ? {} : { file }),
      line,
      tokens,
      countedTokens: tokens.filter(({ counted }) => counted).length,
      ...(notice === undefined ? {} : { notice })
    }
  }
  yield {
    type: 'done',
    packing,
    maxTokens,
    skipped: first.badLineCount,
    skippedLines: first.badLines,
    ...(first.withheld === undefined ? {} : { withheld: first.withheld })
  }
}
