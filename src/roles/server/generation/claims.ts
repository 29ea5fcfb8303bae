import { createHash } from 'node:crypto'
import { CLAIM_TIMEOUT_MS, SECRET_BYTES } from '../../../protocols/handover/constants.ts'
import { ClaimError } from '../../../protocols/handover/errors.ts'
import { BadMessageError, ChannelTimeoutError } from '../../../protocols/wire/errors.ts'

/** Sessions that wait for a claim at once, of all clients. Each has a cache already, which was accounted for. */
const MAX_WAITING = 1024

/** A session that waits for the server before it. */
export interface Expected<Claimant> {
  /** Rejects with ChannelTimeoutError where nobody came in time. */
  readonly claimed: Promise<Claimant>
  /** Waits no longer. */
  cancel (): void
}

export interface ClaimsOptions {
  readonly timeoutMs?: number
  readonly maxWaiting?: number
}

interface Waiting<Claimant> {
  readonly peer: string
  readonly resolve: (claimant: Claimant) => void
}

/** The sessions that wait to be claimed, by the secrets that their clients gave them. Holds no sockets. */
export class Claims<Claimant> {
  readonly #timeoutMs: number
  readonly #maxWaiting: number
  /** By the hash of the secret: how long it takes to look one up tells nothing of the secrets that are there. */
  readonly #waiting = new Map<string, Waiting<Claimant>>()

  constructor ({ timeoutMs = CLAIM_TIMEOUT_MS, maxWaiting = MAX_WAITING }: ClaimsOptions = {}) {
    this.#timeoutMs = timeoutMs
    this.#maxWaiting = maxWaiting
  }

  /** Waits for a peer that knows a secret. Throws BadMessageError for a secret that is none or in use, and where too many wait. */
  expect (secret: Uint8Array, peer: string): Expected<Claimant> {
    const key = keyOf(secret)
    if (this.#waiting.has(key)) throw new BadMessageError('another session waits with the same secret')
    if (this.#waiting.size >= this.#maxWaiting) throw new BadMessageError(`${this.#maxWaiting} sessions wait for their servers already`)
    const { promise, resolve, reject } = Promise.withResolvers<Claimant>()
    promise.catch(() => {}) // a session that ended does not look any more
    const forget = (): void => {
      clearTimeout(timer)
      if (this.#waiting.get(key) === waiting) this.#waiting.delete(key)
    }
    const timer = setTimeout(() => {
      forget()
      reject(new ChannelTimeoutError('it did not come', this.#timeoutMs))
    }, this.#timeoutMs)
    const waiting: Waiting<Claimant> = {
      peer,
      resolve: (claimant) => {
        forget()
        resolve(claimant)
      }
    }
    this.#waiting.set(key, waiting)
    return { claimed: promise, cancel: forget }
  }

  /** Gives the session that waits for this peer with this secret to it. Throws ClaimError, and leaves the session waiting for its peer. */
  claim (secret: Uint8Array, peer: string, claimant: Claimant): void {
    const waiting = secret.byteLength === SECRET_BYTES ? this.#waiting.get(keyOf(secret)) : undefined
    if (waiting?.peer !== peer) throw new ClaimError()
    waiting.resolve(claimant)
  }
}

function keyOf (secret: Uint8Array): string {
  if (secret.byteLength !== SECRET_BYTES) throw new BadMessageError(`a secret of ${secret.byteLength} bytes: expected ${SECRET_BYTES}`)
  return createHash('sha256').update(secret).digest('base64')
}
