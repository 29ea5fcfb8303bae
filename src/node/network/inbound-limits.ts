import { siteOf } from './address-key.ts'
import { HandshakeTurns, type Later } from './handshake-turns.ts'

/** What a connection that came in is known to be; the lower, the sooner it has to make room. */
const STAGES = ['silent', 'waiting', 'handshake', 'stranger'] as const
type Stage = typeof STAGES[number]

interface Place {
  readonly id: string
  readonly key: string
  readonly sinceMs: number
  readonly close: () => void
  stage: Stage
  /** Known after the handshake. */
  peer: string | undefined
  /** Gives up the turn that the connection waits for. */
  giveUp: () => void
}

/** Strangers hold at most this share of all connections; the others are kept for members. */
const STRANGERS_SHARE = 1 / 4

/** Connections of strangers from one address. */
const STRANGERS_PER_ADDRESS = 16

/** The same for an address from which a member came lately: its clients may all come back at once. */
const STRANGERS_PER_RECENT_ADDRESS = 64

/** A stranger that has begun to talk keeps its place for this long, in which it can say hello. */
const MIN_TERM_MS = 1_000

/** How long an address is one from which a member came lately: overnight, and no longer than its network is likely to be the same. */
const RECENT_MS = 24 * 60 * 60_000

/** Addresses that are remembered; those that were quiet longest are forgotten first. */
const MAX_TRACKED_ADDRESSES = 4096

/** What became of a connection that came in: told so that it can be logged. */
export interface Refusal {
  readonly address: string
  readonly reason: string
}

export interface InboundLimitsOptions {
  readonly maxConnections: number
  /** Milliseconds of a clock that nobody sets. */
  readonly now?: () => number
  readonly later?: Later
}

/**
 * Decides which inbound connections may stay, and when they may shake hands. Strangers share a part of all places by address, those that
 * say least make room first, and members are refused only where members hold all places. Holds no sockets: `close` closes a place.
 */
export class InboundLimits {
  readonly #maxConnections: number
  readonly #maxStrangers: number
  readonly #now: () => number
  readonly #turns: HandshakeTurns
  readonly #places = new Map<string, Place>()
  readonly #byAddress = new Map<string, Set<Place>>()
  readonly #members = new Set<string>()
  /** When a member was last seen at an address. */
  readonly #recent = new Map<string, number>()
  #onRefused: (refusal: Refusal) => void = () => {}

  constructor ({ maxConnections, now = () => performance.now(), later }: InboundLimitsOptions) {
    this.#maxConnections = maxConnections
    this.#maxStrangers = Math.max(1, Math.floor(maxConnections * STRANGERS_SHARE))
    this.#now = now
    this.#turns = new HandshakeTurns(now, later)
  }

  /** Calls back for each connection that is refused, or closed to make room. */
  onRefused (listener: (refusal: Refusal) => void): void {
    this.#onRefused = listener
  }

  /** Takes in a connection that was accepted, or returns false: then it is to be closed. */
  arrive (id: string, key: string, close: () => void): boolean {
    const isRecent = this.#isRecent(key)
    const neighbours = [...this.#byAddress.get(key) ?? []].filter((place) => this.#isStranger(place))
    const most = isRecent ? STRANGERS_PER_RECENT_ADDRESS : STRANGERS_PER_ADDRESS
    if (neighbours.length >= most && !this.#makeRoom(neighbours)) return this.#refuse(key, 'too many connections from its address')
    const others = this.#strangers().filter((place) => !this.#isRecent(place.key))
    if (!isRecent && others.length >= this.#maxStrangers && !this.#makeRoomFor(key, others))
      return this.#refuse(key, 'too many connections of strangers')
    if (this.#places.size >= this.#maxConnections && !this.#makeRoomFor(key, this.#strangers()))
      return this.#refuse(key, 'all places are taken')
    this.#add({ id, key, sinceMs: this.#now(), close, stage: 'silent', peer: undefined, giveUp: () => {} })
    return true
  }

  /** Notes that a connection's peer began to talk. Calls `begin` when its handshake may begin, unless it is gone by then. */
  awaitTurn (id: string, begin: () => void): void {
    const place = this.#places.get(id)
    if (place === undefined) return
    place.stage = 'waiting'
    place.giveUp = this.#turns.request(place.key, this.#isRecent(place.key), () => {
      place.stage = 'handshake'
      begin()
    })
  }

  /** Connections that wait for their turn to shake hands. */
  get waiting (): number {
    return this.#turns.waiting
  }

  /** Notes who a connection's peer is, after its handshake. */
  identify (id: string, peer: string): void {
    const place = this.#places.get(id)
    if (place === undefined) return
    place.stage = 'stranger'
    place.peer = peer
    if (this.#members.has(peer)) this.#noteMember(place)
  }

  /** Notes that a connection is gone. */
  leave (id: string): void {
    const place = this.#places.get(id)
    if (place !== undefined) this.#remove(place)
  }

  /** Notes that a peer was greeted: its connections are a member's from now on. */
  greet (peer: string): void {
    this.#members.add(peer)
    for (const place of this.#places.values()) if (place.peer === peer) this.#noteMember(place)
  }

  /** Notes that a peer is a stranger again. */
  forget (peer: string): void {
    this.#members.delete(peer)
  }

  isMember (peer: string): boolean {
    return this.#members.has(peer)
  }

  /** Notes that a stranger's connection cost more than it may, or brought no hello: its address has to wait longer for handshakes. */
  blame (id: string, count?: number): void {
    const place = this.#places.get(id)
    if (place !== undefined && this.#isStranger(place)) this.#turns.blame(place.key, count)
  }

  #add (place: Place): void {
    this.#places.set(place.id, place)
    this.#byAddress.set(place.key, (this.#byAddress.get(place.key) ?? new Set()).add(place))
  }

  #remove (place: Place): void {
    place.giveUp()
    this.#places.delete(place.id)
    const neighbours = this.#byAddress.get(place.key)
    neighbours?.delete(place)
    if (neighbours?.size === 0) this.#byAddress.delete(place.key)
  }

  /** Notes that a member is at a place's address. */
  #noteMember ({ key }: Place): void {
    this.#recent.delete(key)
    this.#recent.set(key, this.#now())
    if (this.#recent.size > MAX_TRACKED_ADDRESSES) this.#recent.delete(this.#recent.keys().next().value as string)
  }

  #isRecent (key: string): boolean {
    const seenMs = this.#recent.get(key)
    return seenMs !== undefined && this.#now() - seenMs < RECENT_MS
  }

  #isStranger ({ peer }: Place): boolean {
    return peer === undefined || !this.#members.has(peer)
  }

  #strangers (): Place[] {
    return [...this.#places.values()].filter((place) => this.#isStranger(place))
  }

  /**
   * Has the site that holds the most of these places give one up, and there the address that holds the most; in any case where the
   * newcomer's site, or address, would still hold fewer.
   */
  #makeRoomFor (key: string, places: readonly Place[]): boolean {
    const site = siteOf(key)
    const ofSite = fullest(places, (place) => siteOf(place.key))
    const ofAddress = fullest(ofSite, (place) => place.key)
    const isFair = ofSite.some((place) => siteOf(place.key) === site)
      ? (this.#byAddress.get(key)?.size ?? 0) + 1 < ofAddress.length
      : places.filter((place) => siteOf(place.key) === site).length + 1 < ofSite.length
    return this.#makeRoom(ofAddress, isFair)
  }

  /** Closes the place among these that says least, the oldest first. Returns false where each of them may stay. */
  #makeRoom (places: readonly Place[], inAnyCase = false): boolean {
    const [victim] = places.toSorted((a, b) => STAGES.indexOf(a.stage) - STAGES.indexOf(b.stage) || a.sinceMs - b.sinceMs)
    if (victim === undefined || (!inAnyCase && victim.stage !== 'silent' && this.#now() - victim.sinceMs < MIN_TERM_MS)) return false
    this.#remove(victim)
    victim.close()
    this.#onRefused({ address: victim.key, reason: `closed a ${victim.stage} connection to make room` })
    return true
  }

  #refuse (address: string, reason: string): false {
    this.#onRefused({ address, reason })
    return false
  }
}

/** The places of the group that holds the most. */
function fullest (places: readonly Place[], groupOf: (place: Place) => string): Place[] {
  return [...Map.groupBy(places, groupOf).values()].reduce<Place[]>((most, these) => these.length > most.length ? these : most, [])
}
