import type { PromptContext } from '../../model/families/index.ts'
import type { Sequences } from '../../model/layers/hidden-states.ts'

/** How rows fall into sequences, as messages say it: no text, but its lengths. */
export function sequenceFields (
  { lengths, contexts = [] }: Sequences
): { lengths: number[], contextLengths: number[], maskPositions: number[] } {
  return {
    lengths: [...lengths],
    contextLengths: contexts.map(({ length }) => length),
    maskPositions: contexts.map(({ maskPosition }) => maskPosition)
  }
}

/** The context of one sequence's rows, as messages say it. */
export function contextFields (context: PromptContext | undefined): { contextLength: number, maskPosition: number } {
  return { contextLength: context?.length ?? 0, maskPosition: context?.maskPosition ?? 0 }
}
