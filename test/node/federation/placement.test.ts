import { describe, expect, it } from 'vitest'
import { coverageOf, coveredSpans } from '../../../src/node/federation/coverage.ts'
import { mayLeave, placeServer, rebalance, type PlacedServer, type PlacementScope, type ServerRoom } from '../../../src/node/federation/placement.ts'
import { randomOf } from '../../helpers/random.ts'

const MiB = 2 ** 20
const scopeOf = (blocks: number, core = { first: 1, end: 1 + blocks }): PlacementScope => ({ middle: { first: 1, end: 1 + blocks }, core })
/** Memory for this many blocks of any of `total`. */
const roomFor = (blocks: number, total = 80): ServerRoom => ({
  blockBytes: Array.from({ length: total }, () => 100 * MiB), fixedBytes: 50 * MiB, memoryBytes: (50 + 100 * blocks) * MiB
})
const blocksOf = ({ room }: PlacedServer): number => Math.floor((room!.memoryBytes - room!.fixedBytes) / (100 * MiB))

describe('coverage', () => {
  it('counts the servers of each block of the middle, and cuts it where the number changes', () => {
    const spans = [{ first: 1, end: 3 }, { first: 2, end: 9 }]
    expect(coverageOf({ first: 1, end: 6 }, spans)).toEqual([1, 2, 1, 1, 1])
    expect(coveredSpans({ first: 1, end: 6 }, [{ first: 2, end: 4 }])).toEqual([
      { blocks: { first: 1, end: 2 }, servers: 0 },
      { blocks: { first: 2, end: 4 }, servers: 1 },
      { blocks: { first: 4, end: 6 }, servers: 0 }
    ])
  })
})

describe('a server that joins', () => {
  it('takes the blocks that nobody serves, as many as fit', () => {
    expect(placeServer(scopeOf(8).middle, roomFor(3), [])).toEqual({ first: 1, end: 4 })
    expect(placeServer(scopeOf(8).middle, roomFor(3), [{ first: 1, end: 5 }])).toEqual({ first: 5, end: 8 })
    expect(placeServer(scopeOf(8).middle, roomFor(20), [])).toEqual({ first: 1, end: 9 })
  })

  it('raises the weakest coverage first', () => {
    const others = [{ first: 1, end: 9 }, { first: 1, end: 4 }, { first: 6, end: 9 }]
    expect(placeServer(scopeOf(8).middle, roomFor(2), others)).toEqual({ first: 4, end: 6 })
    expect(placeServer(scopeOf(8).middle, roomFor(4), others)).toEqual({ first: 2, end: 6 })
  })

  it('counts what each block takes', () => {
    const room = { blockBytes: [1, 1, 10, 1], fixedBytes: 0 }
    const placed = (memoryBytes: number) => placeServer({ first: 0, end: 4 }, { ...room, memoryBytes }, [{ first: 0, end: 2 }])
    expect([placed(9), placed(11)]).toEqual([{ first: 3, end: 4 }, { first: 2, end: 4 }])
  })

  it('has no place where not one block fits into its memory', () => {
    const room = roomFor(1)
    expect(placeServer(scopeOf(8).middle, { ...room, memoryBytes: room.memoryBytes - 1 }, [])).toBeUndefined()
  })
})

describe('servers', () => {
  const server = (id: string, first: number, end: number): PlacedServer =>
    ({ id, span: { first, end }, room: roomFor(end - first) })

  it('stay where they are while every block is served', () => {
    expect(rebalance(scopeOf(4), [server('a', 1, 5), server('b', 1, 5), server('c', 1, 2)])).toEqual([])
  })

  it('move from blocks that others serve too to those that nobody serves', () => {
    expect(rebalance(scopeOf(4), [server('a', 1, 3), server('b', 1, 3)])).toEqual([
      { id: 'a', from: { first: 1, end: 3 }, to: { first: 3, end: 5 }, opens: false }
    ])
  })

  it('stay where their operators put them', () => {
    const servers = [server('a', 1, 3), { ...server('b', 1, 3), room: undefined }]
    expect(rebalance(scopeOf(4), servers.map((one) => ({ ...one, room: undefined })))).toEqual([])
    expect(rebalance(scopeOf(4), servers).map(({ id }) => id)).toEqual(['a'])
  })

  it('do not leave blocks that they alone serve, while clients are served that compute the missing ones themselves', () => {
    const servers = [{ ...server('a', 1, 4), room: undefined }, server('b', 4, 6)]
    expect(rebalance(scopeOf(6, { first: 1, end: 5 }), servers)).toEqual([])
    expect(mayLeave(scopeOf(6, { first: 1, end: 5 }), servers, 'b')).toBe(false)
    // Where every client needs the missing block, nobody is served: the blocks that both of them had may change hands.
    const others = [server('a', 1, 4), server('b', 3, 6), server('c', 3, 5)]
    expect(rebalance(scopeOf(6), others)).toMatchObject([{ id: 'b', to: { first: 4, end: 7 }, opens: false }])
    const apart = [server('a', 2, 4), server('b', 4, 6), server('c', 5, 7)]
    expect(rebalance(scopeOf(6), apart)).toMatchObject([{ id: 'a', to: { first: 1, end: 3 }, opens: true }, { id: 'b', opens: true }])
  })

  it('move one after another where one move is not enough', () => {
    const servers = [server('a', 1, 3), server('b', 2, 4), server('c', 5, 7)]
    const moves = rebalance(scopeOf(6), servers)
    const spans = servers.map(({ id, span }) => moves.findLast((move) => move.id === id)?.to ?? span)
    expect(coverageOf({ first: 1, end: 7 }, spans)).not.toContain(0)
  })

  it('stay where they are when their memory is not enough for every block', () => {
    expect(rebalance(scopeOf(9), [server('a', 1, 3), server('b', 5, 7)])).toEqual([])
  })

  it.each([1, 2, 3, 4])('of mixed sizes come and go, and every block stays served while their memory allows: run %i', (seed) => {
    const random = randomOf(seed)
    const scope = scopeOf(80)
    const { middle } = scope
    let servers: PlacedServer[] = []
    let [moved, departures, covered, most] = [0, 0, 0, 0]
    for (let event = 0; event < 1000; event++) {
      const isArrival = servers.length < 8 || (servers.length < 64 && random() < 0.5)
      if (isArrival) {
        const room = roomFor(2 + Math.floor(random() * 15))
        const span = placeServer(middle, room, servers.map(({ span }) => span))!
        servers.push({ id: String(event), span, room })
      } else {
        servers.splice(Math.floor(random() * servers.length), 1)
        departures++
      }
      const moves = rebalance(scope, servers)
      moved += moves.length
      most = Math.max(most, moves.length)
      for (const { id, from, to } of moves) {
        servers = servers.map((server) => {
          if (server.id !== id) return server
          expect(server.span).toEqual(from)
          return { ...server, span: to }
        })
      }
      const isEnough = servers.reduce((sum, server) => sum + blocksOf(server), 0) >= middle.end - middle.first
      const isCovered = !coverageOf(middle, servers.map(({ span }) => span)).includes(0)
      if (isEnough) expect(isCovered, `event ${event}`).toBe(true)
      covered += Number(isCovered)
    }
    expect(covered).toBeGreaterThan(500)
    // Fewer than one move for each server that leaves, and few at a time.
    expect(moved).toBeLessThan(departures)
    expect(most).toBeLessThanOrEqual(16)
  })
})
