import { readFile, stat } from 'node:fs/promises'
import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { UsageError } from '../../../errors.ts'
import { MAX_WITHHOLD_FILE_CHARACTERS, parseWithholding, withholdKinds } from '../../../model/privacy/withholding.ts'
import type { Client } from '../client.ts'
import { readFirstRecords } from '../training/data.ts'

/** Shows what training would learn of the first records. Trains nothing, and asks no server. */
export async function * preview (
  { context }: Client,
  { records: wanted, withhold: given, ...data }: ParametersOf<'preview'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'preview'>> {
  const withhold = given === undefined ? undefined : await parseWithholding(given, readList)
  const { first, packing, maxTokens } = await readFirstRecords(data, { wanted, withhold }, context.paths.model, context.charter, signal)
  for (const { file, line, ids, lossMask, texts, withheld, notice } of first.records) {
    const tokens = Array.from(ids, (id, i) => ({
      id, text: texts[i] ?? '', counted: lossMask[i] === 1, ...(withheld === undefined ? {} : { withheld: withheld[i] === true })
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

/** Reads a list of words to withhold. Throws UsageError. */
async function readList (path: string): Promise<string> {
  try {
    const { size } = await stat(path)
    if (size > MAX_WITHHOLD_FILE_CHARACTERS) throw new UsageError(`${path} has ${size} bytes: a list of words is shorter`, 'give another file')
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(
      `${path} is no rule for what to withhold, and no file that can be read: ${(error as Error).message}`,
      `give ${withholdKinds.join(', ')}, rare:SHARE or the path of a list of words`,
      error
    )
  }
}
