import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { placeServer, type PlacedServer, type PlacementScope, type ServerRoom } from '../../../src/node/federation/placement.ts'
import { AWAY_LIMIT_MS, MOVE_LIMIT_MS, Rebalancer, REST_MS, type WantedMove } from '../../../src/node/federation/rebalancer.ts'
import { uncovered, type Span } from '../../../src/span.ts'
import { randomOf } from '../../helpers/random.ts'

const AFTER_MS = 60_000
const roomFor = (blocks: number, total = 80): ServerRoom =>
  ({ blockBytes: Array.from({ length: total }, () => 1), fixedBytes: 0, memoryBytes: blocks })
const serverOf = (id: string, first: number, end: number): PlacedServer => ({ id, span: { first, end }, room: roomFor(end - first) })
const fixed = (id: string, first: number, end: number): PlacedServer => ({ id, span: { first, end }, room: undefined })

const scope: PlacementScope = { middle: { first: 0, end: 4 }, core: { first: 0, end: 4 } }
const rebalancer = (): Rebalancer => new Rebalancer({ ...scope, afterMs: AFTER_MS })

/** The blocks 2 and 3 lost their server; `a` and `b` serve the others, and `b` is the one that can move. */
const left = [fixed('a', 0, 2), serverOf('b', 0, 2)]
const WANTED = { id: 'b', from: { first: 0, end: 2 }, to: { first: 2, end: 4 }, opens: false }

/** A rebalancer that wants `b` to move since the time AFTER_MS. */
function wanting (): Rebalancer {
  const made = rebalancer()
  made.observe(left, 0)
  expect(made.observe(left, AFTER_MS)).toMatchObject(WANTED)
  return made
}

describe('a rebalancer', () => {
  it('wants a move when blocks have had no server for as long as one takes to restart, and says why', () => {
    const made = rebalancer()
    expect(made.observe([...left, fixed('c', 2, 4)], 0)).toBeUndefined()
    expect(made.observe(left, 1_000)).toBeUndefined()
    expect(made.observe(left, 1_000 + AFTER_MS - 1)).toBeUndefined()
    expect(made.observe(left, 1_000 + AFTER_MS)).toEqual({
      ...WANTED, reason: 'moves from 0-2 to 2-4: nobody served the blocks 2-4 for 60 s', isUrgent: true
    })
  })

  it('starts counting anew when the server was back meanwhile', () => {
    const made = rebalancer()
    made.observe(left, 0)
    made.observe([...left, fixed('c', 2, 4)], AFTER_MS - 1)
    expect(made.observe(left, AFTER_MS)).toBeUndefined()
    expect(made.observe(left, 2 * AFTER_MS)).toMatchObject(WANTED)
  })

  it('wants the same move until it is done, also while the server is away for it', () => {
    const made = wanting()
    expect(made.observe(left, 2 * AFTER_MS)).toMatchObject(WANTED)
    expect(made.observe([left[0]!], 3 * AFTER_MS)).toMatchObject(WANTED)
    expect(made.observe([left[0]!, serverOf('b', 2, 4)], 4 * AFTER_MS)).toBeUndefined()
  })

  it('gives a move up when the blocks have a server again', () => {
    expect(wanting().observe([...left, fixed('c', 2, 4)], AFTER_MS + 1)).toBeUndefined()
  })

  it('gives a move up when the server does not move any more', () => {
    expect(wanting().observe([left[0]!, fixed('b', 0, 2)], AFTER_MS + 1)).toBeUndefined()
  })

  it('gives a move up when it would take the last server from blocks with which clients are served', () => {
    const made = new Rebalancer({ middle: { first: 0, end: 4 }, core: { first: 0, end: 2 }, afterMs: AFTER_MS })
    made.observe(left, 0)
    expect(made.observe(left, AFTER_MS)).toMatchObject(WANTED)
    expect(made.observe([left[1]!], AFTER_MS + 1)).toBeUndefined()
  })

  it.each([
    ['does not come back', AWAY_LIMIT_MS, [fixed('a', 0, 2), serverOf('z', 0, 2)]],
    ['does not get done', MOVE_LIMIT_MS, [...left, serverOf('z', 0, 2)]]
  ])('has another server move where one %s in time, and leaves that one alone for a while', (_, limitMs, servers) => {
    const made = wanting()
    made.observe(servers, AFTER_MS + 1)
    expect(made.observe(servers, AFTER_MS + limitMs)).toMatchObject(WANTED)
    const lateMs = AFTER_MS + limitMs + 2
    expect(made.observe(servers, lateMs)).toMatchObject({ id: 'z' })
    expect(made.observe([...left, fixed('z', 0, 2)], lateMs + 1)).toBeUndefined()
    expect(made.observe(left, lateMs + REST_MS)).toMatchObject(WANTED)
  })

  it('lets servers move one after another where one move is not enough', () => {
    const made = new Rebalancer({ middle: { first: 0, end: 6 }, core: { first: 0, end: 6 }, afterMs: 0 })
    let servers = [serverOf('a', 1, 3), serverOf('b', 2, 4), serverOf('c', 2, 4)]
    const moved: string[] = []
    for (let now = 0; now < 10; now++) {
      const move = made.observe(servers, now)
      if (move === undefined) break
      moved.push(move.id)
      servers = servers.map((server) => server.id === move.id ? { ...server, span: move.to } : server)
    }
    expect(new Set(moved).size).toBe(moved.length)
    expect(uncovered({ first: 0, end: 6 }, servers.map(({ span }) => span))).toEqual([])
  })

  it('of up to 64 servers that come, go and die while they move leaves no block with which clients are served, and fills what all need', () => {
    fc.assert(fc.property(fc.integer(), (seed) => {
      const random = randomOf(seed)
      const world = new World(random)
      for (let step = 0; step < 400; step++) {
        world.change()
        world.advance(random() * AFTER_MS)
      }
      // Nobody comes or goes any more: what was asked of a server that then died is given up, and all moves come to their end.
      for (let step = 0; step < 100; step++) world.advance(AFTER_MS)
      if (world.memory >= world.blocks) expect(uncovered(world.core, world.spans)).toEqual([])
      expect(world.moves).toBeLessThanOrEqual(world.departures)
    }), { numRuns: 8 })
  })
})

/** The server that moves: what it does, and until when. */
interface Moving {
  readonly move: WantedMove
  readonly server: PlacedServer
  phase: 'prepares' | 'away'
  untilMs: number
}

/** Servers whose moves take time, during which they may die. */
class World {
  readonly blocks = 80
  readonly middle: Span = { first: 0, end: 80 }
  /** The outermost blocks may be computed by clients. */
  readonly core: Span = { first: 4, end: 76 }
  readonly #rebalancer = new Rebalancer({ middle: this.middle, core: this.core, afterMs: AFTER_MS })
  readonly #random: () => number
  #servers: PlacedServer[] = []
  /** It serves its blocks until it is away. */
  #moving: Moving | undefined
  #nowMs = 0
  #names = 0
  moves = 0
  departures = 0

  constructor (random: () => number) {
    this.#random = random
  }

  get spans (): Span[] { return this.#servers.map(({ span }) => span) }
  get memory (): number { return this.#servers.reduce((sum, { room }) => sum + room!.memoryBytes, 0) }

  /** A server comes or goes. */
  change (): void {
    if (this.#servers.length < 8 || (this.#servers.length < 64 && this.#random() < 0.5)) {
      const room = roomFor(2 + Math.floor(this.#random() * 15))
      const span = placeServer(this.middle, room, this.#servers.map((server) => server.span))!
      this.#servers.push({ id: String(this.#names++), span, room })
    } else {
      this.#servers.splice(Math.floor(this.#random() * this.#servers.length), 1)
      this.departures++
    }
  }

  /** Lets time pass, and does what the rebalancer wants. */
  advance (ms: number): void {
    this.#nowMs += ms
    const wanted = this.#rebalancer.observe(this.#servers, this.#nowMs)
    const moving = this.#moving
    if (moving?.phase === 'prepares') {
      const isThere = this.#servers.some(({ id }) => id === moving.move.id)
      if (!isThere || wanted?.id !== moving.move.id) this.#moving = undefined
      else if (this.#nowMs >= moving.untilMs) this.#leave(moving)
    } else if (moving !== undefined && this.#nowMs >= moving.untilMs) {
      this.#moving = undefined
      // One in ten dies on the way.
      if (this.#random() < 0.1) this.departures++
      else this.#servers.push({ ...moving.server, span: moving.move.to })
    }
    const server = this.#servers.find(({ id }) => id === wanted?.id)
    if (wanted === undefined || server === undefined || this.#moving !== undefined) return
    if (server.span.first === wanted.to.first && server.span.end === wanted.to.end) return
    this.#moving = { move: wanted, server, phase: 'prepares', untilMs: this.#nowMs + this.#random() * 3 * AFTER_MS }
  }

  #leave (moving: Moving): void {
    const wasServed = uncovered(this.core, this.spans).length === 0
    const before = uncovered(this.middle, this.spans)
    this.#servers = this.#servers.filter(({ id }) => id !== moving.move.id)
    if (wasServed) expect(uncovered(this.middle, this.spans)).toEqual(before)
    moving.phase = 'away'
    moving.untilMs = this.#nowMs + this.#random() * AFTER_MS
    this.moves++
  }
}
