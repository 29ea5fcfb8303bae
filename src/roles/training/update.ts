import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'

/** What a participant's own blocks add to a round: adapter gradients or adapters, by name. */
export type Contribution = ReadonlyMap<string, Tensor>

/** What a participant's passes came to. */
export interface Update {
  readonly peer: string
  /** The blocks that the participant does not compute itself. */
  readonly span: Span
  /** Target tokens that its loss is the sum over. */
  readonly tokens: number
  /** The L2 norm of the gradients of its own blocks, sums over these tokens, where the strategy collects norms; 0 otherwise. */
  readonly norm: number
}

/** A participant's work that is part of the step. */
export interface AcceptedUpdate extends Update {
  readonly contribution: Contribution
}
