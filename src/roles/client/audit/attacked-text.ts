import type { AttackedSequence } from '../../../model/privacy/audit/oracle.ts'
import type { Batches } from '../../../model/text/batches.ts'

/**
 * Tokens of each sequence that are attacked, at most, as far as there is text enough: the shorter, the more of the text is seen. The
 * attack finds a token as easily far from the beginning as near it.
 */
const PIECE_TOKENS: readonly number[] = [64, 128, 256, 512, 1024, Infinity]

/**
 * Chooses tokens of a text, as training would send it, to attack: the first ones of each sequence, in the order of the first epoch. The
 * first token of a sequence, which no prior foretells, and those that are no text are left out.
 */
export function attackedText (
  batches: Batches,
  { tokens, maxPositions, special }: { readonly tokens: number, readonly maxPositions: number, readonly special: ReadonlySet<number> }
): AttackedSequence[] {
  let chosen: AttackedSequence[] = []
  for (const most of PIECE_TOKENS) {
    chosen = piecesOf(batches, { tokens, most: Math.min(most, maxPositions), special })
    if (countOf(chosen) >= tokens) break
  }
  return chosen
}

/** Counts the positions that are attacked. */
export function countOf (sequences: ReadonlyArray<Pick<AttackedSequence, 'positions'>>): number {
  return sequences.reduce((sum, { positions }) => sum + positions.length, 0)
}

function piecesOf (
  batches: Batches,
  { tokens, most, special }: { readonly tokens: number, readonly most: number, readonly special: ReadonlySet<number> }
): AttackedSequence[] {
  const pieces: AttackedSequence[] = []
  let left = tokens
  for (let index = 0; index < batches.count(0) && left > 0; index++) {
    for (const sequence of batches.at({ epoch: 0, index }).batch.ids) {
      const ids = sequence.slice(0, most)
      const positions = ids.flatMap((id, position) => position === 0 || special.has(id) ? [] : [position]).slice(0, left)
      if (positions.length === 0) continue
      pieces.push({ ids: ids.slice(0, positions.at(-1)! + 1), positions })
      left -= positions.length
      if (left === 0) break
    }
  }
  return pieces
}
