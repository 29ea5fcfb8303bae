import { MidspanError } from '../../errors.ts'
import { contextFault, type Model, type PromptContext } from '../../model/families/index.ts'
import { contextsFault, type Sequences } from '../../model/layers/hidden-states.ts'
import { allowedPartitions } from '../../protocols/charter/client.ts'
import type { Charter } from '../../protocols/charter/schema.ts'
import { MAX_SEQUENCES } from '../../protocols/train/constants.ts'
import { BadMessageError } from '../../protocols/wire/errors.ts'
import { spanText, type Span } from '../../span.ts'

/** How a client says that its hidden states fall into sequences. */
export interface SequenceFields {
  readonly lengths: readonly number[]
  readonly contextLengths: readonly number[]
  readonly maskPositions: readonly number[]
}

/** Checks that some partition of the charter leaves these blocks to the server. Throws BadMessageError. */
export function checkSpan (charter: Charter, span: Span | undefined): Span {
  if (span === undefined) throw new BadMessageError('the message names no blocks')
  const { first, end } = span
  if (
    !allowedPartitions(charter).some(({ inputBlocks, outputBlocks }) =>
      inputBlocks === first && charter.model.blocks - outputBlocks === end
    )
  ) {
    throw new BadMessageError(`the charter allows no middle of blocks ${first} to ${end}`)
  }
  return { first, end }
}

/** Thrown when a client asks for blocks that are another server's. */
export class SpanNotServedError extends MidspanError {
  constructor (served: Span, wanted: Span) {
    super('E_SPAN_NOT_SERVED', `this server serves blocks ${spanText(served)}, and not all of ${spanText(wanted)}`, {
      next: 'see `midspan servers` for who serves which blocks'
    })
  }
}

/** Checks that a server has these blocks. Throws BadMessageError where the model has no such blocks, and SpanNotServedError. */
export function checkServed ({ model: { blocks } }: Charter, served: Span, { first, end }: Span): Span {
  if (first >= end || end > blocks) throw new BadMessageError(`the model has no blocks from ${first} up to ${end}`)
  if (first < served.first || end > served.end) throw new SpanNotServedError(served, { first, end })
  return { first, end }
}

/** Checks the blocks whose adapters a client does not ask for. Throws BadMessageError. */
export function checkExcept ({ model: { blocks } }: Charter, span: Span | undefined): Span | undefined {
  if (span === undefined) return undefined
  const { first, end } = span
  if (first > end || end > blocks) throw new BadMessageError(`the model has no blocks ${first} to ${end}`)
  return { first, end }
}

/** Checks the number of a pass. Throws BadMessageError. */
export function checkPass ({ training: { gradientAccumulationSteps } }: Charter, pass: number): void {
  if (pass >= gradientAccumulationSteps)
    throw new BadMessageError(`a reply came for pass ${pass}: the charter's rounds have ${gradientAccumulationSteps}`)
}

/** Checks lengths of sequences against the charter's bounds. Returns their sum. Throws BadMessageError. */
export function checkLengths (charter: Charter, lengths: readonly number[]): number {
  const { training: { maxTokensPerClient }, limits: { maxSequenceTokens } } = charter
  if (lengths.length === 0 || lengths.length > MAX_SEQUENCES)
    throw new BadMessageError(`${lengths.length} sequences came: expected 1 to ${MAX_SEQUENCES}`)
  for (const length of lengths) {
    if (length < 1 || length > maxSequenceTokens)
      throw new BadMessageError(`a sequence has ${length} tokens: the charter allows 1 to ${maxSequenceTokens}`)
  }
  const rows = lengths.reduce((total, length) => total + length, 0)
  if (rows > maxTokensPerClient) throw new BadMessageError(`${rows} tokens came: the charter allows a batch of ${maxTokensPerClient}`)
  return rows
}

/** Reads how hidden states fall into sequences, with the contexts that the model needs, and counts them. Throws BadMessageError. */
export function checkSequences (
  charter: Charter,
  model: Model,
  { lengths, contextLengths, maskPositions }: SequenceFields
): { sequences: Sequences, rows: number } {
  const rows = checkLengths(charter, lengths)
  if (contextLengths.length > lengths.length || contextLengths.length !== maskPositions.length) {
    throw new BadMessageError(
      `${contextLengths.length} context lengths and ${maskPositions.length} mask positions came for ${lengths.length} sequences`
    )
  }
  const sequences = { lengths, contexts: contextLengths.map((length, index) => ({ length, maskPosition: maskPositions[index] as number })) }
  refuse(contextsFault(model, sequences))
  return { sequences, rows }
}

/** The norm of ten thousand million values of the greatest magnitude that gradients may have. */
const MAX_GRADIENT_NORM = 1e14

/**
 * Checks the norm of a client's gradients. One that is not finite, or absurd, would bring everybody's step to nothing. Throws
 * BadMessageError.
 */
export function checkGradientNorm (norm: number | undefined): number {
  if (norm === undefined) throw new BadMessageError('the norm of the gradients is missing')
  // The comparisons are false for NaN.
  if (!(norm >= 0 && norm <= MAX_GRADIENT_NORM))
    throw new BadMessageError(`gradients came with a norm of ${norm}: expected 0 to ${MAX_GRADIENT_NORM}`)
  return norm
}

/** Where the rows of one request stand in their sequence, as a client says it. */
export interface PlaceFields {
  readonly position: number
  readonly count: number
  readonly contextLength: number
  readonly maskPosition: number
}

/** The context of rows [position, position + count) of a sequence, where the model has contexts. Throws BadMessageError. */
export function checkContext (
  { prompts }: Model,
  { position, count, contextLength, maskPosition }: PlaceFields
): PromptContext | undefined {
  if (prompts === undefined) {
    if (contextLength !== 0 || maskPosition !== 0) throw new BadMessageError('the model has no contexts')
    return undefined
  }
  const context = { length: contextLength, maskPosition }
  refuse(contextFault(context, position, count))
  return context
}

function refuse (fault: string | undefined): void {
  if (fault !== undefined) throw new BadMessageError(fault)
}
