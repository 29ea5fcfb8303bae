import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  NO_HISTORY,
  schedule,
  type PendingRequest,
  type Plan,
  type SchedulerHistory,
  type SchedulerLimits
} from '../../../../src/roles/server/generation/scheduler.ts'

/** Where a run takes as long for one sequence as for many, nobody's surplus is in the way of others. */
const LIMITS: SchedulerLimits = {
  maxBatchedTokens: 512, maxPrefillTokens: 128, maxDecodeTokens: 8, maxSequences: 32, quantum: 32, maxWaitRuns: 1000, overheadTokens: 1e6
}

const request = (id: string, tokens: number, { client = id, indivisible = 1 } = {}): PendingRequest =>
  ({ id, client, weight: 1, priority: 'interactive', tokens, indivisible })
const plan = (requests: readonly PendingRequest[], limits = LIMITS, history = NO_HISTORY): Plan => schedule({ requests, history }, limits)
const tokensOf = ({ chunks }: Plan): Record<string, number> => Object.fromEntries(chunks.map(({ id, tokens }) => [id, tokens]))
const total = ({ chunks }: Plan): number => chunks.reduce((sum, { tokens }) => sum + tokens, 0)

/** Plans run after run, and calls back with each plan; `next` gives the requests that follow what is left of these. */
function simulate (
  requests: readonly PendingRequest[],
  runs: number,
  {
    limits = LIMITS,
    next = (left) => left,
    onPlan = () => {}
  }: {
    readonly limits?: SchedulerLimits
    readonly next?: (left: readonly PendingRequest[], run: number) => readonly PendingRequest[]
    readonly onPlan?: (plan: Plan, requests: readonly PendingRequest[]) => void
  } = {}
): void {
  let history: SchedulerHistory = NO_HISTORY
  let waiting = requests
  for (let run = 0; run < runs && waiting.length > 0; run++) {
    const made = plan(waiting, limits, history)
    onPlan(made, waiting)
    const given = tokensOf(made)
    history = made.history
    waiting = next(
      waiting
        .map((pending) => {
          const tokens = given[pending.id]
          return tokens === undefined ? pending : { ...pending, tokens: pending.tokens - tokens, indivisible: 1 }
        })
        .filter(({ tokens }) => tokens > 0),
      run
    )
  }
}

/** Eight sequences that each ask for their next token. */
const decoding = Array.from({ length: 8 }, (_, i) => request(`decode-${i}`, 1))
describe('a plan', () => {
  it('takes what fits the budget and leaves the rest in order', () => {
    const limits = { ...LIMITS, maxBatchedTokens: 5 }
    expect(tokensOf(plan(['a', 'b', 'c'].map((id) => request(id, 2, { client: 'one' })), limits))).toEqual({ a: 2, b: 2 })
  })

  it('runs a chunk alone that is indivisible and exceeds the budget', () => {
    const limits = { ...LIMITS, maxBatchedTokens: 5 }
    expect(tokensOf(plan([request('prompt', 9, { indivisible: 9 }), request('other', 1)], limits))).toEqual({ prompt: 9 })
  })

  it('runs an indivisible chunk beside decode steps where the budget allows it', () => {
    expect(tokensOf(plan([...decoding, request('prompt', 400, { indivisible: 301 })]))).toMatchObject({ prompt: 301, 'decode-7': 1 })
  })

  it('gives every one of seven clients its token in each run, although an eighth has fifty requests', () => {
    const crowd = Array.from({ length: 50 }, (_, i) => request(`crowd-${i}`, 1, { client: 'crowd' }))
    const others = Array.from({ length: 7 }, (_, i) => request(`other-${i}`, 1))
    simulate([...crowd, ...others], 30, {
      next: () => [...crowd, ...others],
      onPlan: (made) => {
        expect(made.chunks).toHaveLength(LIMITS.maxSequences)
        for (const { id } of others) expect(tokensOf(made)[id]).toBe(1)
      }
    })
  })

  it('earns a client nothing to pause, and forgets clients that are not ahead', () => {
    const busy = plan([request('busy', 5000)])
    const both = plan([request('busy', 4488), request('late', 5000)], LIMITS, busy.history)
    expect(tokensOf(both)).toEqual({ busy: 256, late: 256 })
    const after = plan([request('busy', 4000)], LIMITS, both.history)
    expect([...after.history.served.keys()]).toEqual(['busy'])
  })
})

const limitsArbitrary: fc.Arbitrary<SchedulerLimits> = fc.record({
  maxBatchedTokens: fc.integer({ min: 2, max: 60 }),
  maxPrefillTokens: fc.integer({ min: 1, max: 60 }),
  maxDecodeTokens: fc.integer({ min: 1, max: 3 }),
  maxSequences: fc.integer({ min: 2, max: 6 }),
  quantum: fc.integer({ min: 1, max: 20 })
}).map((limits) => ({
  ...LIMITS,
  ...limits,
  maxPrefillTokens: Math.min(limits.maxPrefillTokens, limits.maxBatchedTokens),
  maxDecodeTokens: Math.min(limits.maxDecodeTokens, limits.maxBatchedTokens - 1)
}))

const requestsArbitrary = (divisible: boolean): fc.Arbitrary<PendingRequest[]> =>
  fc.uniqueArray(
    fc.record({
      id: fc.string({ minLength: 1, maxLength: 4 }),
      client: fc.constantFrom('a', 'b', 'c', 'd'),
      tokens: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 100 })),
      part: divisible ? fc.constant(0) : fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true }))
    }),
    { selector: ({ id }) => id, minLength: 1, maxLength: 14 }
  ).map((requests) => requests.map(({ id, client, tokens, part }) =>
    request(id, tokens, { client, indivisible: Math.max(1, Math.ceil(part * tokens)) })))

const historyArbitrary: fc.Arbitrary<SchedulerHistory> = fc.record({
  served: fc.dictionary(fc.constantFrom('a', 'b', 'c', 'd', 'e'), fc.integer({ min: 0, max: 300 }))
    .map((counts) => new Map(Object.entries(counts))),
  wasAlone: fc.boolean(),
  waits: fc.constant(new Map())
})

describe('every plan', () => {
  it('stays within the budget, but for an indivisible chunk that runs alone', () => {
    fc.assert(fc.property(requestsArbitrary(false), historyArbitrary, limitsArbitrary, (requests, history, limits) => {
      const made = plan(requests, limits, history)
      expect(made.chunks.length).toBeGreaterThan(0)
      expect(made.chunks.length).toBeLessThanOrEqual(limits.maxSequences)
      for (const { id, tokens } of made.chunks) {
        const planned = requests.find((pending) => pending.id === id)!
        expect(tokens).toBeGreaterThanOrEqual(planned.indivisible)
        expect(tokens).toBeLessThanOrEqual(planned.tokens)
      }
      if (total(made) > limits.maxBatchedTokens) expect(made.chunks).toHaveLength(1)
      expect(total(made) <= limits.maxBatchedTokens || made.history.wasAlone).toBe(true)
      expect(new Set(made.chunks.map(({ id }) => id)).size).toBe(made.chunks.length)
    }))
  })

  it('has every decode step that fits, before any prompt', () => {
    fc.assert(fc.property(requestsArbitrary(true), historyArbitrary, limitsArbitrary, (requests, history, limits) => {
      const made = plan(requests, limits, history)
      const decodes = requests.filter(({ tokens }) => tokens <= limits.maxDecodeTokens)
      const planned = decodes.filter(({ id }) => made.chunks.some((chunk) => chunk.id === id))
      for (const { id, tokens } of planned) expect(tokensOf(made)[id]).toBe(tokens)
      const all = decodes.reduce((sum, { tokens }) => sum + tokens, 0)
      if (decodes.length < limits.maxSequences && all < limits.maxBatchedTokens) expect(planned).toHaveLength(decodes.length)
    }))
  })

  it('does not depend on the order of arrival of different clients, and lists sequences in the order of their ids', () => {
    fc.assert(fc.property(requestsArbitrary(false), historyArbitrary, limitsArbitrary, (requests, history, limits) => {
      const made = plan(requests, limits, history)
      const byClient = ['d', 'c', 'b', 'a'].flatMap((client) => requests.filter((pending) => pending.client === client))
      expect(plan(byClient, limits, history)).toEqual(made)
      expect(made.chunks.map(({ id }) => id)).toEqual(made.chunks.map(({ id }) => id).sort())
    }))
  })

  it('does not depend on any order of arrival where all that waits fits one run', () => {
    fc.assert(fc.property(requestsArbitrary(true), fc.infiniteStream(fc.nat()), (requests, random) => {
      const limits = { ...LIMITS, maxBatchedTokens: 2000, maxPrefillTokens: 2000 }
      const shuffled = requests.map((pending) => ({ pending, key: random.next().value as number })).sort((a, b) => a.key - b.key)
      expect(plan(shuffled.map(({ pending }) => pending), limits).chunks).toEqual(plan(requests, limits).chunks)
    }))
  })

  it('leads to every request being computed, whatever keeps arriving', () => {
    fc.assert(
      fc.property(requestsArbitrary(false), limitsArbitrary, fc.array(requestsArbitrary(false), { maxLength: 3 }), (...given) => {
        const [requests, limits, later] = given
        const waiting = new Set(requests.map(({ id }) => id))
        let run = 0
        simulate(requests, 5000, {
          limits,
          next: (left) => {
            for (const id of waiting) if (left.every((pending) => pending.id !== id)) waiting.delete(id)
            if (waiting.size === 0) return []
            const fresh = (later[run++ % (later.length + 1)] ?? []).map((pending) => ({ ...pending, id: `later-${run}-${pending.id}` }))
            return [...left, ...(left.length < 60 ? fresh : [])]
          }
        })
        expect([...waiting]).toEqual([])
      }),
      { numRuns: 15 }
    )
  }, 60_000)

  it('keeps clients with prompts within the quantum and the largest indivisible chunk of each other', () => {
    const prompts = fc.array(fc.record({ client: fc.constantFrom('a', 'b', 'c'), indivisible: fc.integer({ min: 1, max: 90 }) }), {
      minLength: 3,
      maxLength: 9
    })
    fc.assert(fc.property(prompts, limitsArbitrary, (given, anyLimits) => {
      // Where a run has no place for every sequence, one client's requests can fill the places of a run.
      const limits = { ...anyLimits, maxSequences: given.length }
      const requests = given.map(({ client, indivisible }, i) => request(`${i}`, 10_000, { client, indivisible }))
      const clients = [...new Set(requests.map(({ client }) => client))]
      const served = new Map(clients.map((client) => [client, 0]))
      const bound = limits.quantum + Math.max(...requests.map(({ indivisible }) => indivisible))
      simulate(requests, 100, {
        limits,
        onPlan: ({ chunks }) => {
          for (const { id, tokens } of chunks) {
            const { client } = requests[Number(id)]!
            served.set(client, served.get(client)! + tokens)
          }
          expect(Math.max(...served.values()) - Math.min(...served.values())).toBeLessThanOrEqual(bound)
        }
      })
    }))
  })
})
