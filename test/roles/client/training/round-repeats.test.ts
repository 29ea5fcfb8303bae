import { describe, expect, it } from 'vitest'
import { BEGIN_EVERY_MS, MAX_BEGINS, RoundRepeats, WARN_AT_BEGINS } from '../../../../src/roles/client/training/round-repeats.ts'

describe('begins of one round', () => {
  it('are refused when they come in a flood, after the user was told once', () => {
    const repeats = new RoundRepeats(() => 0)
    const notices = Array.from({ length: MAX_BEGINS }, () => repeats.count(3))
    expect(notices.flatMap((notice, i) => notice === undefined ? [] : [i + 1])).toEqual([WARN_AT_BEGINS])
    expect(() => repeats.count(3)).toThrow(expect.objectContaining({ code: 'E_ROUND_REPEATED', retryable: false }))
  })

  it('are counted for each round by itself', () => {
    const repeats = new RoundRepeats(() => 0)
    for (let round = 0; round < 10 * MAX_BEGINS; round++) repeats.count(round)
  })

  it('may come at each deadline for as long as a round waits', () => {
    let nowMs = 0
    const repeats = new RoundRepeats(() => nowMs)
    for (; nowMs < 1_000 * BEGIN_EVERY_MS; nowMs += BEGIN_EVERY_MS) repeats.count(3)
  })
})
