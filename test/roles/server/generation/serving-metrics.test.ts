import { describe, expect, it } from 'vitest'
import { MAX_COUNTED_CLIENTS, ServingMetrics } from '../../../../src/roles/server/generation/serving-metrics.ts'

describe('ServingMetrics', () => {
  it('has nothing to tell at first', () => {
    const none = { count: 0, mean: 0, p50: 0, p90: 0, p99: 0, max: 0 }
    expect(new ServingMetrics().status).toEqual({
      tokens: 0, runTokens: none, runSequences: none, runMs: none, queueMs: none, firstTokenMs: none, betweenTokensMs: none, clients: []
    })
  })

  it('tells how values are spread, within a hundredth', () => {
    const metrics = new ServingMetrics()
    for (let ms = 1; ms <= 1000; ms++) metrics.queued(ms)
    const { count, mean, p50, p90, p99, max } = metrics.status.queueMs
    expect(count).toBe(1000)
    for (const [value, expected] of [[mean, 500.5], [p50, 500], [p90, 900], [p99, 990], [max, 1000]] as const)
      expect(Math.abs(value / expected - 1)).toBeLessThan(0.011)
  })

  it('takes any time, and no pause of a client for a time between tokens', () => {
    const metrics = new ServingMetrics()
    for (const ms of [0, -1, 1e12]) metrics.answeredPrompt(ms)
    metrics.answeredStep(20)
    metrics.answeredStep(60_000)
    expect(metrics.status.firstTokenMs.count).toBe(3)
    expect(metrics.status.betweenTokensMs.count).toBe(1)
  })

  it('counts the tokens of each client, and forgets whom it served the longest ago', () => {
    const metrics = new ServingMetrics()
    for (let i = 0; i <= MAX_COUNTED_CLIENTS; i++) {
      metrics.served('always', 2, 3)
      metrics.served(`${i}`, 1, 1)
    }
    const { clients, tokens } = metrics.status
    expect(clients).toHaveLength(MAX_COUNTED_CLIENTS)
    expect(clients[0]).toEqual({ peer: 'always', weight: 2, tokens: 3 * (MAX_COUNTED_CLIENTS + 1) })
    expect(clients.map(({ peer }) => peer)).not.toContain('0')
    expect(tokens).toBe(4 * (MAX_COUNTED_CLIENTS + 1))
  })
})
