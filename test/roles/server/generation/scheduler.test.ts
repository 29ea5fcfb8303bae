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

const LIMITS: SchedulerLimits = {
  maxBatchedTokens: 512, maxPrefillTokens: 128, maxDecodeTokens: 8, maxSequences: 32, quantum: 32, maxWaitRuns: 16, overheadTokens: 1000
}

const request = (id: string, tokens: number, changes: Partial<PendingRequest> = {}): PendingRequest =>
  ({ id, client: id, weight: 1, priority: 'interactive', tokens, indivisible: 1, ...changes })

const tokensOf = ({ chunks }: Plan): number => chunks.reduce((sum, { tokens }) => sum + tokens, 0)
const servedIn = ({ chunks }: Plan, id: string): number => chunks.find((chunk) => chunk.id === id)?.tokens ?? 0

/** Runs plans until every request is served. `next` gives the requests that a sequence has after it was served. */
function run (
  requests: readonly PendingRequest[],
  limits: SchedulerLimits,
  onPlan: (plan: Plan, before: readonly PendingRequest[], history: SchedulerHistory) => void,
  maxRuns = 10_000
): number {
  let [left, history, runs] = [requests, NO_HISTORY, 0]
  while (left.length > 0) {
    if (++runs > maxRuns) throw new Error('requests are not served')
    const plan = schedule({ requests: left, history }, limits)
    onPlan(plan, left, history)
    history = plan.history
    left = left.flatMap((one) => {
      const given = servedIn(plan, one.id)
      if (given === 0) return [one]
      return given === one.tokens ? [] : [{ ...one, tokens: one.tokens - given, indivisible: 1 }]
    })
  }
  return runs
}

const decodes = Array.from({ length: 8 }, (_, i) => request(`decode-${i}`, 1))

describe('schedule', () => {
  it('keeps the budget while a prompt of 4,096 tokens comes to 8 decoding sequences, and gives each of them its token in every run', () => {
    let [prompt, history, runs] = [request('prompt', 4096), NO_HISTORY, 0]
    while (prompt.tokens > 0) {
      const plan = schedule({ requests: [prompt, ...decodes], history }, LIMITS)
      expect(tokensOf(plan)).toBeLessThanOrEqual(LIMITS.maxBatchedTokens)
      for (const { id } of decodes) expect(servedIn(plan, id)).toBe(1)
      expect(servedIn(plan, 'prompt')).toBeGreaterThan(0)
      prompt = { ...prompt, tokens: prompt.tokens - servedIn(plan, 'prompt') }
      history = plan.history
      runs++
    }
    expect(runs).toBe(4096 / LIMITS.maxPrefillTokens)
  })

  it('uses the whole budget for a prompt that nobody waits beside', () => {
    expect(run([request('prompt', 4096)], LIMITS, (plan) => {
      expect(tokensOf(plan)).toBe(LIMITS.maxBatchedTokens)
    })).toBe(4096 / LIMITS.maxBatchedTokens)
  })

  it('runs a prompt that cannot be cut alone, and never twice in a row while a token waits', () => {
    const whole = ['a', 'b', 'c'].map((id) => request(id, 900, { indivisible: 900 }))
    const alone: boolean[] = []
    let [left, history] = [whole, NO_HISTORY]
    while (left.length > 0) {
      const plan = schedule({ requests: [...left, ...decodes], history }, LIMITS)
      alone.push(plan.history.wasAlone)
      if (plan.history.wasAlone) expect(plan.chunks).toHaveLength(1)
      else for (const { id } of decodes) expect(servedIn(plan, id)).toBe(1)
      left = left.filter(({ id }) => servedIn(plan, id) === 0)
      history = plan.history
    }
    expect(alone).toEqual([true, false, true, false, true])
  })

  it('shares prefill between clients, however many requests one of them has', () => {
    const many = Array.from({ length: 50 }, (_, i) => request(`greedy-${i}`, 64, { client: 'greedy' }))
    const modest = request('modest', 256)
    let [left, history, served] = [[...many, modest], NO_HISTORY, 0]
    let runs = 0
    while (left.some(({ id }) => id === 'modest')) {
      const plan = schedule({ requests: left, history }, { ...LIMITS, maxBatchedTokens: 128 })
      served += tokensOf(plan)
      history = plan.history
      left = left.flatMap((one) => {
        const tokens = one.tokens - servedIn(plan, one.id)
        return tokens === 0 ? [] : [{ ...one, tokens }]
      })
      runs++
    }
    expect(runs).toBeLessThanOrEqual(5)
    expect(served).toBeLessThanOrEqual(2 * 256 + 2 * LIMITS.quantum + 128)
  })

  const anyRequests = fc.array(
    fc.record({ client: fc.constantFrom('a', 'b', 'c'), tokens: fc.integer({ min: 1, max: 200 }), whole: fc.boolean() }),
    { minLength: 1, maxLength: 12 }
  ).map((all) => all.map(({ client, tokens, whole }, i) => request(`${i}`, tokens, { client, indivisible: whole ? tokens : 1 })))
  const anyLimits = fc.record({
    maxBatchedTokens: fc.integer({ min: 8, max: 64 }),
    maxPrefillTokens: fc.integer({ min: 1, max: 64 }),
    maxDecodeTokens: fc.integer({ min: 1, max: 4 }),
    maxSequences: fc.integer({ min: 2, max: 6 }),
    quantum: fc.integer({ min: 1, max: 16 }),
    maxWaitRuns: fc.integer({ min: 1, max: 20 }),
    overheadTokens: fc.integer({ min: 0, max: 40 })
  })

  it('never exceeds its bounds, cuts nothing that is whole, and serves everyone', () => {
    fc.assert(fc.property(anyRequests, anyLimits, (requests, limits) => {
      run(requests, limits, (plan, before) => {
        expect(plan.chunks.length).toBeGreaterThan(0)
        expect(plan.chunks.length).toBeLessThanOrEqual(limits.maxSequences)
        if (plan.chunks.length > 1) expect(tokensOf(plan)).toBeLessThanOrEqual(limits.maxBatchedTokens)
        for (const { id, tokens } of plan.chunks) {
          const planned = before.find((one) => one.id === id)!
          expect(tokens).toBeGreaterThanOrEqual(Math.min(planned.indivisible, planned.tokens))
          expect(tokens).toBeLessThanOrEqual(planned.tokens)
        }
        expect(plan.chunks.map(({ id }) => id)).toEqual(plan.chunks.map(({ id }) => id).sort())
      })
    }))
  })

  it('is a pure function of its state', () => {
    fc.assert(fc.property(anyRequests, anyLimits, (requests, limits) => {
      const state = { requests, history: NO_HISTORY }
      const before = structuredClone(requests)
      expect(schedule(state, limits)).toEqual(schedule(state, limits))
      expect(requests).toEqual(before)
    }))
  })
})
