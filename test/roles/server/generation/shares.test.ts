import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DEFAULT_LIMITS } from '../../../../src/roles/server/generation/engine.ts'
import {
  NO_HISTORY,
  priorities,
  schedule,
  type PendingRequest,
  type Plan,
  type SchedulerLimits
} from '../../../../src/roles/server/generation/scheduler.ts'

/** A client that has always so many requests of this kind: each is followed by the next when it is done. */
interface Demand {
  readonly client: string
  readonly requests: number
  readonly tokens: number
  readonly weight?: number
  readonly priority?: PendingRequest['priority']
}

/** Plans runs for clients whose requests never end. Returns the tokens that each client got, and calls back with each plan. */
function serve (
  demands: readonly Demand[],
  runs: number,
  limits: SchedulerLimits = DEFAULT_LIMITS,
  onPlan: (plan: Plan) => void = () => {}
): Record<string, number> {
  let requests: readonly PendingRequest[] = demands.flatMap(({ client, requests: count, tokens, weight = 1, priority = 'interactive' }) =>
    Array.from({ length: count }, (_, i) => ({ id: `${client} ${i}`, client, weight, priority, tokens, indivisible: 1 })))
  const whole = new Map(requests.map(({ id, tokens }) => [id, tokens]))
  const served: Record<string, number> = {}
  let history = NO_HISTORY
  for (let run = 0; run < runs; run++) {
    const plan = schedule({ requests, history }, limits)
    onPlan(plan)
    history = plan.history
    const given = new Map(plan.chunks.map(({ id, tokens }) => [id, tokens]))
    const later: PendingRequest[] = []
    requests = requests.flatMap((request) => {
      const tokens = given.get(request.id) ?? 0
      served[request.client] = (served[request.client] ?? 0) + tokens
      if (tokens < request.tokens) return [{ ...request, tokens: request.tokens - tokens }]
      later.push({ ...request, tokens: whole.get(request.id)! })
      return []
    })
    requests = [...requests, ...later]
  }
  return served
}

const total = (served: Readonly<Record<string, number>>): number => Object.values(served).reduce((sum, tokens) => sum + tokens, 0)

describe('one client with fifty requests among seven with one', () => {
  const among = (tokens: number): Demand[] => [
    { client: 'greedy', requests: 50, tokens },
    ...Array.from({ length: 7 }, (_, i) => ({ client: `modest ${i}`, requests: 1, tokens }))
  ]

  it.each([['decode steps', 1], ['drafted steps', 5], ['prompts', 300]])('leaves the seven six eighths of the server, of %s', (_, tokens) => {
    const served = serve(among(tokens), 400)
    expect((total(served) - served.greedy!) / total(served)).toBeGreaterThanOrEqual(6 / 8)
    const shares = Array.from({ length: 7 }, (_, i) => served[`modest ${i}`]!)
    expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(DEFAULT_LIMITS.maxBatchedTokens)
  })

  it('fills a run for it where that costs the seven no more than a third of the run that they have alone', () => {
    // As measured at hidden 512: a run takes what 20 tokens take, besides its own.
    const limits = { ...DEFAULT_LIMITS, overheadTokens: 20 }
    serve(among(1), 100, limits, ({ chunks }) => {
      expect(chunks.filter(({ id }) => id.startsWith('modest'))).toHaveLength(7)
      expect(chunks.length).toBeGreaterThan(12)
      expect((20 + 7) / (20 + chunks.length)).toBeGreaterThanOrEqual(6 / 8)
    })
  })

  it('has all places where the others want none', () => {
    serve([{ client: 'greedy', requests: 50, tokens: 1 }], 10, DEFAULT_LIMITS, ({ chunks }) => {
      expect(chunks).toHaveLength(DEFAULT_LIMITS.maxSequences)
    })
  })
})

describe('weights', () => {
  it('are what prompts are shared by', () => {
    const served = serve([
      { client: 'one', requests: 4, tokens: 200 },
      { client: 'three', requests: 4, tokens: 200, weight: 3 }
    ], 200)
    expect(served.three! / served.one!).toBeCloseTo(3, 1)
  })

  it('are the decode steps of a turn', () => {
    const served = serve([
      { client: 'one', requests: 20, tokens: 1 },
      { client: 'three', requests: 60, tokens: 1, weight: 3 }
    ], 200)
    expect(served.three! / served.one!).toBeCloseTo(3, 1)
  })
})

describe('priorities', () => {
  it.each([['decode steps', 1, 60], ['prompts', 600, 4]])('put interactive %s before those of a batch, which keep a share', (_, tokens, requests) => {
    const served = serve([
      { client: 'someone', requests, tokens },
      { client: 'batch', requests, tokens, priority: 'batch' }
    ], 300)
    const share = served.batch! / total(served)
    expect(share).toBeGreaterThan(0.2)
    expect(share).toBeLessThan(0.35)
  })

  it('leave the whole server to a batch that is alone', () => {
    serve([{ client: 'batch', requests: 4, tokens: 600, priority: 'batch' }], 20, DEFAULT_LIMITS, ({ chunks }) => {
      expect(chunks.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(DEFAULT_LIMITS.maxBatchedTokens)
    })
  })
})

describe('no request', () => {
  const arrival = fc.record({
    client: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    weight: fc.integer({ min: 1, max: 4 }),
    priority: fc.constantFrom(...priorities),
    tokens: fc.oneof(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 4, max: 90 })),
    part: fc.double({ min: 0, max: 1, noNaN: true })
  })
  const anyLimits = fc.record({
    maxBatchedTokens: fc.integer({ min: 4, max: 40 }),
    maxPrefillTokens: fc.integer({ min: 1, max: 40 }),
    maxDecodeTokens: fc.integer({ min: 1, max: 3 }),
    maxSequences: fc.integer({ min: 2, max: 8 }),
    quantum: fc.integer({ min: 1, max: 16 }),
    maxWaitRuns: fc.integer({ min: 1, max: 20 }),
    overheadTokens: fc.integer({ min: 0, max: 30 })
  })
  const anyArrivals = fc.array(fc.array(arrival, { maxLength: 4 }), { minLength: 1, maxLength: 60 })

  it.each([['that may be cut anywhere', false, 1], ['whatever its context', true, 2]])(
    '%s waits for more runs than the limit and one for each request there is',
    (_, whole, factor) => {
      fc.assert(fc.property(anyArrivals, anyLimits, (arrivals, limits) => {
        let requests: PendingRequest[] = []
        let history = NO_HISTORY
        let most = 0
        const waited = new Map<string, number>()
        for (let run = 0; run < 150; run++) {
          for (const [i, { part, ...given }] of (arrivals[run] ?? []).entries()) {
            if (requests.length < 40)
              requests.push({ id: `${run} ${i}`, ...given, indivisible: whole ? Math.max(1, Math.ceil(part * given.tokens)) : 1 })
          }
          if (requests.length === 0) continue
          most = Math.max(most, requests.length)
          const plan = schedule({ requests, history }, limits)
          history = plan.history
          const given = new Map(plan.chunks.map(({ id, tokens }) => [id, tokens]))
          for (const { id } of requests) {
            const runs = given.has(id) ? 0 : (waited.get(id) ?? 0) + 1
            waited.set(id, runs)
            expect(runs).toBeLessThanOrEqual(factor * (limits.maxWaitRuns + most))
          }
          requests = requests.map((request) => given.has(request.id)
            ? { ...request, tokens: request.tokens - given.get(request.id)!, indivisible: 1 }
            : request).filter(({ tokens }) => tokens > 0)
        }
      }), { numRuns: 150 })
    }
  )
})
