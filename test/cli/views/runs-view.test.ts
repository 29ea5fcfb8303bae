import { describe, expect, it } from 'vitest'
import { runOverview, runsText, sparkline } from '../../../src/cli/views/runs-view.ts'

describe('runs as they are shown', () => {
  it('have their losses as a line of blocks', () => {
    expect(sparkline([8, 7, 6, 5, 4, 3, 2, 1], 20)).toBe('█▇▆▅▄▃▂▁')
    expect(sparkline([4, 2, null, 0], 2)).toBe('█▁')
    expect(sparkline([3, null, 3], 5)).toBe('▁ ▁')
    expect(sparkline([], 5)).toBe('')
  })

  it('have a line each', () => {
    const time = '2026-01-31T09:45:01.000Z'
    const round = (done: number, loss: number) => ({
      type: 'round' as const, time, round: done, done, rounds: 2, loss, learningRate: 0.1, tokens: 5, tokensPerSecond: 5, inputTokens: 10,
      inputTokensPerSecond: 10, sentBytes: 1024, receivedBytes: 1024, clippedFraction: 0, leftOut: false, members: 1
    })
    const evaluation = (done: number, loss: number) => ({ type: 'evaluation' as const, time, done, loss, tokens: 5, best: false })
    const overview = runOverview({
      id: '20260131-094501-3f2a', directory: '/h/runs/x', started: time, key: 'k', data: ['a'],
      entries: [round(1, 4), evaluation(1, 3), round(2, 2), evaluation(2, 3.5)]
    })
    expect(overview).toMatchObject({ rounds: 2, losses: [4, 2], best: { done: 1, loss: 3 }, tokens: 10, meanTokensPerSecond: 10 })
    expect(runsText([overview])[1]).toBe('20260131-094501-3f2a  2       █▁    4.0000 to 2.0000  3.0000 after 1  10        4.0 KiB')
    expect(runsText([])).toEqual(['No run yet: begin one with midspan train'])
  })
})
