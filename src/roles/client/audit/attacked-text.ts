import type { GappedSequence } from '../../../model/privacy/audit/infill.ts'
import type { AttackedSequence } from '../../../model/privacy/audit/oracle.ts'
import type { Batch, Batches } from '../../../model/text/batches.ts'

/**
 * Tokens of each sequence that are attacked, at most, as far as there is text enough: the shorter, the more of the text is seen. The
 * attack finds a token as easily far from the beginning as near it.
 */
const PIECE_TOKENS: readonly number[] = [64, 128, 256, 512, 1024, Infinity]

/** A piece of a text that is attacked. */
export interface AttackedPiece {
  /** All tokens, withheld ones as well: their positions are attacked by what is sent around them. */
  readonly whole: GappedSequence
  /** The tokens that are sent, which are attacked by their hidden states. */
  readonly sent: AttackedSequence
}

/**
 * Chooses tokens of a text, as training would send it, to attack: the first ones of each sequence, in the order of the first epoch. What
 * is withheld counts among them. The first token that is sent of a sequence, which no prior foretells, what is withheld before it, and
 * tokens that are no text are left out.
 */
export function attackedText (
  batches: Batches,
  { tokens, maxPositions, special }: { readonly tokens: number, readonly maxPositions: number, readonly special: ReadonlySet<number> }
): AttackedPiece[] {
  let chosen: AttackedPiece[] = []
  for (const most of PIECE_TOKENS) {
    chosen = piecesOf(batches, { tokens, most: Math.min(most, maxPositions), special })
    if (countOf(chosen.map(({ whole }) => whole)) >= tokens) break
  }
  return chosen
}

/** Counts the positions that are attacked. */
export function countOf (sequences: ReadonlyArray<Pick<AttackedSequence, 'positions'>>): number {
  return sequences.reduce((sum, { positions }) => sum + positions.length, 0)
}

/** Counts the positions that are attacked and withheld. */
export function withheldIn (sequences: readonly GappedSequence[]): number {
  return sequences.reduce((sum, { positions, isSent }) => sum + positions.filter((position) => isSent[position] !== 1).length, 0)
}

function piecesOf (
  batches: Batches,
  { tokens, most, special }: { readonly tokens: number, readonly most: number, readonly special: ReadonlySet<number> }
): AttackedPiece[] {
  const pieces: AttackedPiece[] = []
  let left = tokens
  for (let index = 0; index < batches.count(0) && left > 0; index++) {
    for (const { ids, isSent } of wholeSequences(batches.at({ epoch: 0, index }).batch)) {
      const start = isSent.indexOf(1)
      if (start < 0) continue
      const piece = ids.slice(start, start + most)
      const positions = piece.flatMap((id, position) => position === 0 || special.has(id) ? [] : [position]).slice(0, left)
      if (positions.length === 0) continue
      const end = positions.at(-1)! + 1
      const whole = { ids: piece.slice(0, end), isSent: isSent.slice(start, start + end), positions }
      pieces.push({ whole, sent: sentOf(whole) })
      left -= positions.length
      if (left === 0) break
    }
  }
  return pieces
}

/** Lists the sequences of a batch with all their tokens, and which of these are sent. */
function wholeSequences ({ ids, own }: Batch): Array<{ readonly ids: readonly number[], readonly isSent: Uint8Array }> {
  if (own === undefined) return ids.map((sequence) => ({ ids: sequence, isSent: new Uint8Array(sequence.length).fill(1) }))
  let at = 0
  return own.ids.map((sequence) => ({ ids: sequence, isSent: own.isSent.slice(at, at += sequence.length) }))
}

/** Takes what is withheld out of a piece. */
function sentOf ({ ids, isSent, positions }: GappedSequence): AttackedSequence {
  const attacked = new Set(positions)
  const kept = ids.flatMap((id, position) => isSent[position] === 1 ? [{ id, isAttacked: attacked.has(position) }] : [])
  return { ids: kept.map(({ id }) => id), positions: kept.flatMap(({ isAttacked }, position) => isAttacked ? [position] : []) }
}
