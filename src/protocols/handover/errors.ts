import { MidspanError } from '../../errors.ts'

/** Which neighbour of a server in a chain is meant: the one that it hands over to, or the one that hands over to it. */
export type NeighbourSide = 'next' | 'previous'

const CODES = { next: 'E_HANDOVER_NEXT', previous: 'E_HANDOVER_PREVIOUS' } as const

/** A server of a chain has no way to its neighbour, or lost it. */
export class HandoverError extends MidspanError {
  constructor (side: NeighbourSide, peer: string, cause: unknown) {
    const why = cause instanceof MidspanError ? cause.message : 'the connection failed'
    super(CODES[side], `${side === 'next' ? 'the next server' : 'the server before'}, ${peer}, was lost: ${why}`, {
      cause, next: 'let the client carry the hidden states', retryable: true
    })
  }
}

/** Returns which neighbour a server's error is about, or undefined where it is about the server itself. */
export function neighbourAtFault (error: unknown): NeighbourSide | undefined {
  if (!(error instanceof MidspanError)) return undefined
  return (Object.keys(CODES) as NeighbourSide[]).find((side) => CODES[side] === error.code)
}

/** Thrown at a server that claims a session which does not wait for it. Why is not said: whoever guesses learns nothing. */
export class ClaimError extends MidspanError {
  constructor () {
    super('E_HANDOVER_CLAIM', 'no session waits for this server with this secret')
  }
}
