import { MidspanError } from '../../errors.ts'

/** What a user can do about RoundsAheadError. */
export const ROUNDS_AHEAD_NEXT = "restore the server's newer state, or go on from the server's rounds with: midspan train --rewind"

/** Thrown where a client has seen rounds that the server does not have, as after the server's state was restored from an older copy. */
export class RoundsAheadError extends MidspanError {
  static readonly code = 'E_ROUNDS_AHEAD'

  constructor (serverRound: number, clientRound: number) {
    super(
      RoundsAheadError.code,
      `the server has ${serverRound} rounds, and this client has seen ${clientRound}: the server's state is an older copy`,
      { next: ROUNDS_AHEAD_NEXT }
    )
  }
}
