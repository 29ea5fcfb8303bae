import { siteOf } from './address-key.ts'
import { LeakyBucket, type EventRate } from './leaky-bucket.ts'

/** Handshakes that an address may begin of which no member is known: each handshake costs a few milliseconds of computing. */
export const ADDRESS_HANDSHAKES: EventRate = { atOnce: 10, perSecond: 2 }

/** The same for an address from which a member came lately. */
export const RECENT_HANDSHAKES: EventRate = { atOnce: 100, perSecond: 20 }

/**
 * What all addresses may begin together of which no member is known: all members of a large federation at once, who come back to a server
 * that was restarted, and then a tenth of a core.
 */
export const STRANGERS_HANDSHAKES: EventRate = { atOnce: 200, perSecond: 10 }

/** Blame that an address may have without having to wait: a peer's network may fail between its handshake and its hello. */
const FORGIVEN_BLAME = 4

/** Each blame above that halves an address's rate; more than this many change nothing. */
const MAX_HALVINGS = 5

/** One blame is forgotten in this time. */
const BLAME_LAPSES_MS = 30_000

/** An address has a turn this often whatever it did, since peers who did nothing may share it: sooner than they give up. */
const LEAST_PER_SECOND = 1 / 4

/** The same for an address from which a member came lately. */
const LEAST_RECENT_PER_SECOND = 1

/** Addresses that are remembered; those that were quiet longest are forgotten first. */
const MAX_TRACKED_ADDRESSES = 4096

/** Waiting turns are looked at this often where none is known to come sooner. */
const LONGEST_PAUSE_MS = 1_000

/** Calls back once after some milliseconds. Returns how to stop that. */
export type Later = (afterMs: number, callback: () => void) => () => void

const laterByTimer: Later = (afterMs, callback) => {
  const timer = setTimeout(callback, afterMs)
  timer.unref()
  return () => { clearTimeout(timer) }
}

/** What is known of an address. */
interface Caller {
  readonly bucket: LeakyBucket
  blame: number
  blameSinceMs: number
}

interface Turn {
  readonly key: string
  readonly isRecent: boolean
  readonly begin: () => void
}

/**
 * Decides when a connection's handshake may begin, so that strangers cannot have a server compute for them alone. A connection waits for
 * its turn; the site that has had the fewest turns comes first, and an address whose peers were to blame has fewer of them.
 */
export class HandshakeTurns {
  readonly #now: () => number
  readonly #later: Later
  readonly #callers = new Map<string, Caller>()
  readonly #strangers: LeakyBucket
  readonly #waiting = new Set<Turn>()
  #stop: (() => void) | undefined

  constructor (now: () => number = () => performance.now(), later: Later = laterByTimer) {
    this.#now = now
    this.#later = later
    this.#strangers = new LeakyBucket(now())
  }

  /** Calls `begin` when a handshake of an address may begin, before this returns where it may at once. Returns how to give the turn up. */
  request (key: string, isRecent: boolean, begin: () => void): () => void {
    const turn = { key, isRecent, begin }
    this.#waiting.add(turn)
    this.#grant()
    return () => { this.#waiting.delete(turn) }
  }

  /** Notes that peers of an address cost more than they may, or said no hello: its handshakes have to wait longer. */
  blame (key: string, count = 1): void {
    for (const each of new Set([key, siteOf(key)])) {
      const caller = this.#caller(each)
      caller.blame = Math.min(this.#blameOf(caller) + count, FORGIVEN_BLAME + MAX_HALVINGS)
      caller.blameSinceMs = this.#now()
    }
  }

  /** Connections that wait for their turn. */
  get waiting (): number {
    return this.#waiting.size
  }

  #grant (): void {
    this.#stop?.()
    this.#stop = undefined
    let pauseMs = LONGEST_PAUSE_MS
    const inOrder = [...this.#waiting].map((turn) => ({ turn, had: this.#turnsHad(turn) })).toSorted((a, b) => a.had - b.had)
    for (const { turn } of inOrder) {
      if (!this.#waiting.has(turn)) continue
      const waitMs = this.#waitMs(turn)
      if (waitMs > 0) {
        pauseMs = Math.min(pauseMs, waitMs)
        continue
      }
      this.#waiting.delete(turn)
      for (const key of new Set([turn.key, siteOf(turn.key)])) this.#caller(key).bucket.add()
      if (!turn.isRecent) this.#strangers.add()
      turn.begin()
    }
    if (this.#waiting.size > 0) this.#stop ??= this.#later(Math.ceil(pauseMs), () => { this.#grant() })
  }

  /** How many turns a turn's site had lately, and its blame: the fewest come first; of equals, whoever asked first. */
  #turnsHad ({ key, isRecent }: Turn): number {
    const caller = this.#caller(siteOf(key))
    return caller.bucket.level(this.#now(), this.#rateOf(caller, isRecent)) + this.#blameOf(caller)
  }

  #waitMs ({ key, isRecent }: Turn): number {
    const caller = this.#caller(key)
    const nowMs = this.#now()
    const ownMs = caller.bucket.waitMs(nowMs, this.#rateOf(caller, isRecent))
    return isRecent ? ownMs : Math.max(ownMs, this.#strangers.waitMs(nowMs, STRANGERS_HANDSHAKES))
  }

  #rateOf (caller: Caller, isRecent: boolean): EventRate {
    const { atOnce, perSecond } = isRecent ? RECENT_HANDSHAKES : ADDRESS_HANDSHAKES
    const share = 2 ** -Math.max(this.#blameOf(caller) - FORGIVEN_BLAME, 0)
    return {
      atOnce: Math.max(atOnce * share, 1),
      perSecond: Math.max(perSecond * share, isRecent ? LEAST_RECENT_PER_SECOND : LEAST_PER_SECOND)
    }
  }

  /** An address's blame, of which some is forgotten by now. */
  #blameOf (caller: Caller): number {
    const forgotten = Math.floor(Math.max(this.#now() - caller.blameSinceMs, 0) / BLAME_LAPSES_MS)
    if (forgotten > 0) {
      caller.blame = Math.max(caller.blame - forgotten, 0)
      caller.blameSinceMs += forgotten * BLAME_LAPSES_MS
    }
    return caller.blame
  }

  /** Returns what is known of an address, as the newest of all. */
  #caller (key: string): Caller {
    const caller = this.#callers.get(key) ?? { bucket: new LeakyBucket(this.#now()), blame: 0, blameSinceMs: this.#now() }
    this.#callers.delete(key)
    this.#callers.set(key, caller)
    if (this.#callers.size > MAX_TRACKED_ADDRESSES) this.#callers.delete(this.#callers.keys().next().value as string)
    return caller
  }
}
