import { allowedPartitions } from '../../protocols/charter/client.ts'
import type { Charter } from '../../protocols/charter/schema.ts'
import { MAX_SEQUENCES } from '../../protocols/train/constants.ts'
import { BadMessageError } from '../../protocols/wire/rows.ts'
import type { Span } from './members.ts'

/** A middle that some partition of the charter leaves. Throws BadMessageError. */
export function checkSpan (charter: Charter, span: Span | undefined): Span {
  if (span === undefined) throw new BadMessageError('the message names no blocks')
  const { first, end } = span
  if (!allowedPartitions(charter).some(({ inputBlocks, outputBlocks }) => inputBlocks === first && charter.model.blocks - outputBlocks === end)) {
    throw new BadMessageError(`the charter allows no middle of blocks ${first} to ${end}`)
  }
  return { first, end }
}

/** Lengths of sequences within the charter's bounds. Returns their sum. Throws BadMessageError. */
export function checkLengths (charter: Charter, lengths: readonly number[]): number {
  const { training: { maxTokensPerClient }, limits: { maxSequenceTokens } } = charter
  if (lengths.length === 0 || lengths.length > MAX_SEQUENCES) throw new BadMessageError(`${lengths.length} sequences came: expected 1 to ${MAX_SEQUENCES}`)
  for (const length of lengths) {
    if (length < 1 || length > maxSequenceTokens) throw new BadMessageError(`a sequence has ${length} tokens: the charter allows 1 to ${maxSequenceTokens}`)
  }
  const rows = lengths.reduce((total, length) => total + length, 0)
  if (rows > maxTokensPerClient) throw new BadMessageError(`${rows} tokens came: the charter allows ${maxTokensPerClient} a client and round`)
  return rows
}
