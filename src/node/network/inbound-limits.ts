/** What a connection that came in is known to be; the lower, the sooner it has to make room. */
const STAGES = ['silent', 'handshake', 'stranger'] as const
type Stage = typeof STAGES[number]

interface Place {
  readonly key: string
  readonly sinceMs: number
  readonly close: (reason: Error) => void
  stage: Stage
  /** Known after the handshake. */
  peer: string | undefined
}

/** Strangers hold at most this share of all connections; the others are kept for members. */
const STRANGERS_SHARE = 1 / 4

/** Connections of strangers from one address. */
const STRANGERS_PER_ADDRESS = 16

/** The same for an address from which a member came lately: its clients may all come back at once. */
const STRANGERS_PER_RECENT_ADDRESS = 64

/** Handshakes that one address may begin at once, and then each second: each costs a few milliseconds of computing. */
const HANDSHAKES = 10
const HANDSHAKES_PER_SECOND = 2

/** The same for an address from which a member came lately. */
const RECENT_HANDSHAKES = 100
const RECENT_HANDSHAKES_PER_SECOND = 20

/** A stranger that has begun to talk keeps its place for this long, in which it can say hello. */
const MIN_TERM_MS = 1_000

/** Addresses that are remembered; those that were quiet longest are forgotten first. */
const MAX_TRACKED_ADDRESSES = 4096

/** What became of a connection that came in: told so that it can be logged. */
export interface Refusal {
  readonly address: string
  readonly reason: string
}

export interface InboundLimitsOptions {
  readonly maxConnections: number
  readonly now?: () => number
}

/**
 * Decides which inbound connections may stay. Strangers share a part of all places by address, those that say least make room first, and
 * members are refused only where members hold all places. Holds no sockets: a place is closed by its `close`.
 */
export class InboundLimits {
  readonly #maxConnections: number
  readonly #maxStrangers: number
  readonly #now: () => number
  readonly #places = new Map<string, Place>()
  readonly #members = new Set<string>()
  /** When a member was last seen at an address. */
  readonly #recent = new Map<string, true>()
  readonly #handshakes = new Map<string, { count: number, sinceMs: number }>()
  #onRefused: (refusal: Refusal) => void = () => {}

  constructor ({ maxConnections, now = Date.now }: InboundLimitsOptions) {
    this.#maxConnections = maxConnections
    this.#maxStrangers = Math.max(1, Math.floor(maxConnections * STRANGERS_SHARE))
    this.#now = now
  }

  /** Calls back for each connection that is refused, or closed to make room. */
  onRefused (listener: (refusal: Refusal) => void): void {
    this.#onRefused = listener
  }

  /** Takes in a connection that was accepted, or returns false: then it is to be closed. */
  arrive (id: string, key: string, close: (reason: Error) => void): boolean {
    const isRecent = this.#recent.has(key)
    const neighbours = this.#strangers().filter((place) => place.key === key)
    const most = isRecent ? STRANGERS_PER_RECENT_ADDRESS : STRANGERS_PER_ADDRESS
    if (neighbours.length >= most && !this.#makeRoom(neighbours)) return this.#refuse(key, 'too many connections from its address')
    const others = this.#strangers().filter((place) => !this.#recent.has(place.key))
    if (!isRecent && others.length >= this.#maxStrangers && !this.#makeRoom(fullestAddress(others)))
      return this.#refuse(key, 'too many connections of strangers')
    if (this.#places.size >= this.#maxConnections && !this.#makeRoom(fullestAddress(this.#strangers())))
      return this.#refuse(key, 'all places are taken')
    this.#places.set(id, { key, sinceMs: this.#now(), close, stage: 'silent', peer: undefined })
    return true
  }

  /** Notes that a connection's handshake begins, or returns false where its address begins too many. */
  beginHandshake (id: string): boolean {
    const place = this.#places.get(id)
    if (place === undefined) return true
    place.stage = 'handshake'
    const { key } = place
    const isRecent = this.#recent.has(key)
    const [most, perSecond] = isRecent ? [RECENT_HANDSHAKES, RECENT_HANDSHAKES_PER_SECOND] : [HANDSHAKES, HANDSHAKES_PER_SECOND]
    const nowMs = this.#now()
    const known = this.#handshakes.get(key) ?? { count: 0, sinceMs: nowMs }
    const count = Math.max(known.count - (nowMs - known.sinceMs) / 1000 * perSecond, 0)
    const isAllowed = count + 1 <= most
    remember(this.#handshakes, key, { count: isAllowed ? count + 1 : count, sinceMs: nowMs })
    return isAllowed || this.#refuse(key, 'too many handshakes from its address')
  }

  /** Notes who a connection's peer is, after its handshake. */
  identify (id: string, peer: string): void {
    const place = this.#places.get(id)
    if (place === undefined) return
    place.stage = 'stranger'
    place.peer = peer
    if (this.#members.has(peer)) remember(this.#recent, place.key, true)
  }

  /** Notes that a connection is gone. */
  leave (id: string): void {
    this.#places.delete(id)
  }

  /** Notes that a peer was greeted: its connections are a member's from now on. */
  greet (peer: string): void {
    this.#members.add(peer)
    for (const place of this.#places.values()) if (place.peer === peer) remember(this.#recent, place.key, true)
  }

  /** Notes that a peer is a stranger again. */
  forget (peer: string): void {
    this.#members.delete(peer)
  }

  isMember (peer: string): boolean {
    return this.#members.has(peer)
  }

  #strangers (): Place[] {
    return [...this.#places.values()].filter(({ peer }) => peer === undefined || !this.#members.has(peer))
  }

  /** Closes the place among these that says least, the oldest first. Returns false where each of them may stay. */
  #makeRoom (places: readonly Place[]): boolean {
    const [victim] = places.toSorted((a, b) => STAGES.indexOf(a.stage) - STAGES.indexOf(b.stage) || a.sinceMs - b.sinceMs)
    if (victim === undefined || (victim.stage !== 'silent' && this.#now() - victim.sinceMs < MIN_TERM_MS)) return false
    for (const [id, place] of this.#places) if (place === victim) this.#places.delete(id)
    victim.close(new Error('the connection made room for another'))
    this.#onRefused({ address: victim.key, reason: `closed a ${victim.stage} connection to make room` })
    return true
  }

  #refuse (address: string, reason: string): false {
    this.#onRefused({ address, reason })
    return false
  }
}

/** The places of the address that holds the most. */
function fullestAddress (places: readonly Place[]): Place[] {
  const byAddress = Map.groupBy(places, ({ key }) => key)
  return [...byAddress.values()].reduce<Place[]>((fullest, these) => these.length > fullest.length ? these : fullest, [])
}

/** Sets an entry of a bounded map and makes it the newest. */
function remember<Value> (map: Map<string, Value>, key: string, value: Value): void {
  map.delete(key)
  map.set(key, value)
  if (map.size > MAX_TRACKED_ADDRESSES) map.delete(map.keys().next().value as string)
}
