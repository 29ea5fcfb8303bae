import { MAX_TIMER_MS } from '../../api/fields.ts'
import { blockWeights, type Model } from '../../model/families/index.ts'

/** Operations a second of two cores of an old laptop: SmolLM2-135M, with its large head, was measured at 13 billion. */
const SLOW_FLOPS = 10e9

/** Bytes a second of a home's uplink. */
const SLOW_BYTES_PER_SECOND = 1e6

/** A forward pass takes two operations for each weight and token, the backward pass four (Kaplan et al., 2020, section 2.1). */
const OPERATIONS_PER_WEIGHT = 6

/** Hidden states and gradients, each up and down. */
const TRANSFERS = 4

const WIRE_BYTES = { fp32: 4, fp16: 2, int8: 1 } as const

/** A client that was cut off for a moment comes back within a minute. */
const LEAST_MS = 60_000
const STEP_MS = 10_000

/** The largest batches of a round, and who computes how much of them. */
export interface RoundSize {
  readonly inputBlocks: { readonly max: number }
  readonly outputBlocks: { readonly max: number }
  readonly maxTokensPerClient: number
  /** Batches of a round. */
  readonly accumulate: number
  readonly wire: keyof typeof WIRE_BYTES
}

/**
 * Computes how long a round waits for one client where the founder does not say: as long as a slow machine on a slow link takes for the
 * largest batches that the charter allows, with the most blocks that a client may keep.
 */
export function roundDeadlineFor (
  model: Model,
  { inputBlocks, outputBlocks, maxTokensPerClient, accumulate, wire }: RoundSize
): number {
  const blockSize = blockWeights(model).reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0)
  const weights = model.vocabularySize * model.hiddenSize + (inputBlocks.max + outputBlocks.max) * blockSize
  const tokens = maxTokensPerClient * accumulate
  const seconds = OPERATIONS_PER_WEIGHT * weights * tokens / SLOW_FLOPS +
    TRANSFERS * tokens * model.hiddenSize * WIRE_BYTES[wire] / SLOW_BYTES_PER_SECOND
  return Math.min(Math.max(Math.ceil(seconds * 1000 / STEP_MS) * STEP_MS, LEAST_MS), MAX_TIMER_MS)
}
