import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { ServerLoad } from '../../../src/roles/context.ts'
import { chooseRoute, unserved, type RouteCandidate } from '../../../src/roles/middle/route-choice.ts'
import type { Span } from '../../../src/span.ts'

const MIDDLE = { first: 2, end: 14 }
const idle: ServerLoad = { sessions: 0, queuedTokens: 0, freeCacheBytes: 0, prefillTokensPerSecond: 2000, decodeTokensPerSecond: 100 }
const server = (id: string, span: Span | undefined, more: Partial<RouteCandidate> = {}): RouteCandidate => ({
  id, span, roundTripMs: 20, load: idle, isDoubtful: false, ...more
})
const legs = (candidates: readonly RouteCandidate[], seed = 'a', span = MIDDLE): string[] | undefined =>
  chooseRoute(candidates, span, seed)?.legs.map(({ server: id, span: { first, end } }) => `${id} ${first}-${end}`)

/** Any server, with numbers that a peer may make up. */
const anySpan = fc.tuple(fc.nat(16), fc.nat(8)).map(([first, length]) => ({ first, end: first + length }))
const anyNumber = fc.oneof(fc.double({ min: 0, max: 1e4, noNaN: true }), fc.constantFrom(0, -1, NaN, Infinity, 1e300))
const anyServer: fc.Arbitrary<Omit<RouteCandidate, 'id'>> = fc.record({
  span: fc.oneof({ weight: 8, arbitrary: anySpan }, fc.constant(undefined)),
  roundTripMs: fc.option(anyNumber, { nil: undefined }),
  load: fc.option(
    fc.record({
      sessions: anyNumber, queuedTokens: anyNumber, freeCacheBytes: anyNumber, prefillTokensPerSecond: anyNumber,
      decodeTokensPerSecond: anyNumber
    }),
    { nil: undefined }
  ),
  isDoubtful: fc.boolean()
})
const anyServers = fc.array(anyServer, { maxLength: 12 }).map((all) => all.map((one, i): RouteCandidate => ({ id: `s${i}`, ...one })))

const covers = ({ span }: RouteCandidate, first: number, end: number): boolean =>
  span === undefined || (span.first <= first && end <= span.end)

describe('the choice of a route', () => {
  it('takes consecutive parts of the spans that servers serve, from the first block to the last', () => {
    fc.assert(fc.property(anyServers, fc.string(), (candidates, seed) => {
      const chosen = chooseRoute(candidates, MIDDLE, seed)
      expect(chosen === undefined).toBe(unserved(candidates, MIDDLE).length > 0)
      let at = MIDDLE.first
      for (const { server: id, span: { first, end } } of chosen?.legs ?? []) {
        expect(first).toBe(at)
        expect(end).toBeGreaterThan(first)
        expect(covers(candidates.find((one) => one.id === id)!, first, end)).toBe(true)
        at = end
      }
      if (chosen !== undefined) expect(at).toBe(MIDDLE.end)
    }))
  })

  it('takes the least time, as a search over every block finds it', () => {
    fc.assert(fc.property(anyServers, fc.string(), (candidates, seed) => {
      const usual = candidates.map((one) => ({ ...one, span: one.span ?? MIDDLE }))
      const chosen = chooseRoute(usual, MIDDLE, seed)
      // The time of a leg alone is that of a route of the one leg.
      const best = new Map<number, readonly [doubtful: number, ms: number]>([[MIDDLE.first, [0, 0]]])
      for (let end = MIDDLE.first + 1; end <= MIDDLE.end; end++) {
        for (let first = MIDDLE.first; first < end; first++) {
          const before = best.get(first)
          if (before === undefined) continue
          for (const one of usual.filter((each) => covers(each, first, end))) {
            // What others measured counts for those that measured nothing: they stay among the candidates, without a chance.
            const others = usual.map((each) => each.id === one.id ? { ...one, isDoubtful: false } : { ...each, isDoubtful: true })
            const { legs: [leg, ...more], expectedMs } = chooseRoute(others, { first, end }, seed)!
            expect([leg!.server, more]).toEqual([one.id, []])
            const way = [before[0] + (one.isDoubtful ? end - first : 0), before[1] + expectedMs] as const
            const known = best.get(end)
            if (known === undefined || way[0] < known[0] || (way[0] === known[0] && way[1] < known[1])) best.set(end, way)
          }
        }
      }
      const expected = best.get(MIDDLE.end)
      const doubtful = chosen?.legs.reduce((sum, { isDoubtful, span: { first, end } }) => sum + (isDoubtful ? end - first : 0), 0)
      expect(doubtful).toBe(expected?.[0])
      if (chosen !== undefined) expect(chosen.expectedMs / expected![1]).toBeCloseTo(1, 9)
    }), { numRuns: 40 })
  })

  it('does not depend on the order in which servers are known', () => {
    fc.assert(fc.property(anyServers, fc.string(), (candidates, seed) => {
      expect(chooseRoute(candidates.toReversed(), MIDDLE, seed)).toEqual(chooseRoute(candidates, MIDDLE, seed))
    }))
  })

  it('names the blocks that nobody serves', () => {
    fc.assert(fc.property(anyServers, (candidates) => {
      const served = (block: number): boolean => candidates.some((one) => covers(one, block, block + 1))
      const expected = Array.from({ length: MIDDLE.end - MIDDLE.first }, (_, i) => MIDDLE.first + i).filter((block) => !served(block))
      const gaps = unserved(candidates, MIDDLE)
      expect(gaps.flatMap(({ first, end }) => Array.from({ length: end - first }, (_, i) => first + i))).toEqual(expected)
      for (const [i, { first }] of gaps.entries()) if (i > 0) expect(first).toBeGreaterThan(gaps[i - 1]!.end)
    }))
    expect(unserved([server('a', { first: 0, end: 6 }), server('b', { first: 9, end: 12 })], MIDDLE)).toEqual([
      { first: 6, end: 9 },
      { first: 12, end: 14 }
    ])
  })

  it('takes a server that has not said what it serves for one that serves everything', () => {
    expect(legs([server('a', undefined)])).toEqual(['a 2-14'])
  })

  it('takes one server before two, unless two are faster by more than a message there and back', () => {
    const pieces = [server('b', { first: 2, end: 8 }), server('c', { first: 8, end: 14 })]
    expect(legs([server('a', MIDDLE), ...pieces])).toEqual(['a 2-14'])
    const slow = { load: { ...idle, decodeTokensPerSecond: 5 } }
    expect(legs([server('a', MIDDLE, slow), ...pieces])).toEqual(['b 2-8', 'c 8-14'])
  })

  it('cuts the span of a slow server where a fast one begins', () => {
    const slow = { load: { ...idle, decodeTokensPerSecond: 5 } }
    expect(legs([server('a', { first: 0, end: 12 }, slow), server('b', { first: 6, end: 20 })])).toEqual(['a 2-6', 'b 6-14'])
  })

  it.each([
    ['is far away', { roundTripMs: 200 }],
    ['is slow', { load: { ...idle, decodeTokensPerSecond: 10 } }],
    ['has much to do', { load: { ...idle, queuedTokens: 500 } }],
    ['has many sessions', { load: { ...idle, sessions: 100 } }],
    ['failed', { isDoubtful: true }]
  ])('passes over a server that %s', (_, more) => {
    for (const seed of ['a', 'b', 'c', 'd']) expect(legs([server('a', MIDDLE, more), server('b', MIDDLE)], seed)).toEqual(['b 2-14'])
  })

  it('takes a server that failed for those blocks alone that no other serves', () => {
    expect(legs([server('a', MIDDLE, { isDoubtful: true }), server('b', { first: 2, end: 6 }), server('c', { first: 9, end: 14 })]))
      .toEqual(['b 2-6', 'a 6-9', 'c 9-14'])
  })

  it('spreads clients evenly over servers that are equally fast, and keeps each client where it is', () => {
    const replicas = ['a', 'b', 'c', 'd'].map((id) => server(id, MIDDLE))
    const counts = new Map<string, number>()
    for (let client = 0; client < 800; client++) {
      const [chosen] = legs(replicas, `client ${client}`)!
      counts.set(chosen!, (counts.get(chosen!) ?? 0) + 1)
      expect(legs(replicas, `client ${client}`)).toEqual([chosen])
    }
    expect(counts.size).toBe(4)
    for (const count of counts.values()) expect(Math.abs(count - 200)).toBeLessThan(60)
  })
})
