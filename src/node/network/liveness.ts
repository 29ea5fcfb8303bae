import type { MultiaddrConnection } from '@libp2p/interface'

/** A connection over which nothing came for this long is dead: each end pings the other often enough that something was due. */
export const SILENCE_TIMEOUT_MS = 45_000

/** How many times silence is looked for within the timeout. */
const CHECKS = 9

/** Checks between two pings: three pings fall due within the timeout. */
const CHECKS_PER_PING = 3

/** How often a connection has to be pinged so that something is due on it. */
export function pingIntervalOf (silenceTimeoutMs: number): number {
  return silenceTimeoutMs * CHECKS_PER_PING / CHECKS
}

/** Why a dead connection was aborted. */
export class DeadConnectionError extends Error {
  override readonly name = 'DeadConnectionError'

  constructor (silenceTimeoutMs: number) {
    super(`nothing came from the peer for ${silenceTimeoutMs / 1000} s`)
  }
}

/**
 * Counts checks in silence. It counts checks in place of reading a clock: after the event loop was blocked, bytes that arrived meanwhile
 * are delivered before the next check, and one late check counts as one.
 */
export class Liveness {
  readonly #maxChecks: number
  #silentChecks = 0

  constructor (maxChecks = CHECKS) {
    this.#maxChecks = maxChecks
  }

  /** Notes that the peer, or the way to it, gave a sign of life. */
  sign (): void {
    this.#silentChecks = 0
  }

  /** Counts one check. Returns whether the connection is dead. */
  check (): boolean {
    return ++this.#silentChecks >= this.#maxChecks
  }
}

/** Calls back every so many milliseconds. Returns how to stop that. */
export type Every = (intervalMs: number, callback: () => void) => () => void

const everyInterval: Every = (intervalMs, callback) => {
  const timer = setInterval(callback, intervalMs)
  timer.unref()
  return () => { clearInterval(timer) }
}

/**
 * Aborts a connection once it is dead. A sign of life is a byte that came in, or a full socket that took more bytes: a large message may
 * need longer than the timeout on a slow uplink, and the peer's answers wait behind it.
 */
export function watchLiveness (connection: MultiaddrConnection, silenceTimeoutMs = SILENCE_TIMEOUT_MS, every: Every = everyInterval): void {
  const liveness = new Liveness()
  const sign = (): void => { liveness.sign() }
  connection.addEventListener('message', sign)
  connection.addEventListener('drain', sign)
  const stop = every(silenceTimeoutMs / CHECKS, () => {
    if (connection.status === 'open' && liveness.check()) connection.abort(new DeadConnectionError(silenceTimeoutMs))
  })
  connection.addEventListener('close', stop, { once: true })
}
