import { MidspanError } from '../../../../errors.ts'
import { MAX_VALUE } from './constants.ts'

/** Thrown by a contributor that is asked for something that would show more than the sum. Its secrets are gone then. */
export class AggregationRefusedError extends MidspanError {
  constructor (reason: string, cause?: unknown) {
    super('E_AGGREGATION_REFUSED', `this client takes no part in the secure sum: ${reason}`, {
      next: 'ask whoever runs the server; nothing but masked values has left',
      cause
    })
  }
}

/** Thrown by a contributor that finds a peer in the sum that its user does not know. */
export class UnknownContributorError extends MidspanError {
  constructor (peer: string) {
    super('E_UNKNOWN_CONTRIBUTOR', `${peer} takes part in the secure sum, and is not among --contributors`, {
      next: 'ask whose peer that is: add it to --contributors if you know it; a server can invent members, and then sees what the others add'
    })
  }
}

/** Thrown for a contribution with a value that the fixed-point numbers of a secure sum cannot hold. */
export class ContributionRangeError extends MidspanError {
  constructor (value: number) {
    super('E_CONTRIBUTION_RANGE', `a contribution holds ${value}, and a secure sum takes values from -${MAX_VALUE} to ${MAX_VALUE}`, {
      next: 'training has diverged, or it takes smaller batches: the gradients are sums over their tokens'
    })
  }
}
