import { stat } from 'node:fs/promises'
import { UsageError } from '../../errors.ts'
import type { Model } from '../../model/families/index.ts'
import { MAX_WITHHOLD_FILE_CHARACTERS, parseWithholding, withholdKinds, type WithholdRule } from '../../model/privacy/withholding.ts'
import { readUtf8 } from '../../model/text/utf8.ts'

/** Reads what `--withhold` says, its lists of words included. Throws UsageError. */
export async function readWithholding (text: string): Promise<WithholdRule[]> {
  return await parseWithholding(text, readList)
}

/**
 * Throws UsageError for a model whose states of some words depend on how many others there are: what is left of a text without the
 * withheld words cannot go through it in pieces.
 */
export function checkWithholdable ({ prompts, rotary }: Pick<Model, 'prompts' | 'rotary'>): void {
  if (prompts !== undefined)
    throw new UsageError('this model reads prompts in both directions, and cannot have words withheld from it', 'leave out --withhold')
  if (rotary.growth !== undefined)
    throw new UsageError("this model's rotations depend on a text's length, and it cannot have words withheld from it", 'leave out --withhold')
}

/** Describes rules with the lists that were read, so that equal texts mean equal rules. */
export function describeWithholding (rules: readonly WithholdRule[]): string {
  return JSON.stringify(rules.map((rule) => rule.kind === 'list'
    ? { kind: rule.kind, words: [...rule.words].sort(), patterns: rule.patterns.map(({ source }) => source) }
    : rule))
}

/** Reads a list of words to withhold. Throws UsageError. */
async function readList (path: string): Promise<string> {
  try {
    const { size } = await stat(path)
    if (size > MAX_WITHHOLD_FILE_CHARACTERS) throw new UsageError(`${path} has ${size} bytes: a list of words is shorter`, 'give another file')
    return await readUtf8(path)
  } catch (error) {
    if (error instanceof UsageError) throw error
    throw new UsageError(
      `${path} is no rule for what to withhold, and no file that can be read: ${(error as Error).message}`,
      `give ${withholdKinds.join(', ')}, rare:SHARE or the path of a list of words`,
      error
    )
  }
}
