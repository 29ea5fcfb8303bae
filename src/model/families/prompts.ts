import { MidspanError } from '../../errors.ts'

/** What the blocks must know of a sequence, besides its rows, in a model that reads prompts in both directions. */
export interface PromptContext {
  /** The first so many rows, which all rows see, also those before them. */
  readonly length: number
  /** The first position of the rows after them: where the mask token stands in the context, or `length`, where they count on. */
  readonly maskPosition: number
}

/** How a model that reads prompts in both directions takes its token ids: a prompt, which `closing` tokens end, then the answer. */
export interface PromptReading {
  readonly closing: readonly number[]
  /**
   * The context of a sequence: of its rows when they are read in one pass, or of those that are generated after such a pass. Throws
   * PromptError.
   */
  readonly context: (ids: readonly number[], rows: 'read' | 'generated') => PromptContext
}

/** Thrown for token ids that lack what tells a prompt from its answer. */
export class PromptError extends MidspanError {
  constructor (message: string, next: string) {
    super('E_PROMPT', message, { next })
  }
}

/**
 * Returns what contradicts a context of rows [from, from + count) of a sequence; undefined where nothing does. A context comes in one
 * piece, with a row after it.
 */
export function contextFault ({ length, maskPosition }: PromptContext, from: number, count: number): string | undefined {
  if (length < 1 || length >= from + count) return `a context of ${length} rows does not fit a sequence of ${from + count}`
  if (maskPosition < 0 || maskPosition > length) return `a mask token at ${maskPosition} is not in a context of ${length} rows`
  if (from > 0 && from < length) return `rows from ${from} on begin within their context of ${length} rows`
  return undefined
}

/**
 * Both positions of rows [from, from + count) of a sequence: that in the text, where the answer stands for the mask token, and that in the
 * answer.
 */
export function positionPairs ({ length, maskPosition }: PromptContext, from: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => from + i).flatMap((row) => {
    if (row < length) return [row, 0]
    return [maskPosition < length ? maskPosition : row, row - length + 1]
  })
}
