import { describe, expect, it } from 'vitest'
import { MAX_DRAFTED_TOKENS, Speculation, type TextSpeculation } from '../../../../src/model/generation/speculation/speculation.ts'

const CAPACITY = 64
const TEXT = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]

/** Lets a text be generated without drafts, one token after another. */
function finish (text: TextSpeculation, tokens: readonly number[]): void {
  for (const token of tokens) text.committed([token], { sent: 0, accepted: 0, ms: undefined })
  text.end()
}

describe('speculation of a client', () => {
  it('drafts from its texts before, MAX_DRAFTED_TOKENS and what there is room for at most', async () => {
    const speculation = new Speculation()
    finish(speculation.open('history', TEXT.slice(0, 2), CAPACITY), TEXT.slice(2))
    const next = speculation.open('history', TEXT.slice(0, 2), CAPACITY)
    expect(await next.draft(20)).toEqual(TEXT.slice(2, 2 + MAX_DRAFTED_TOKENS))
    expect(await next.draft(1)).toEqual([5])
    expect(await next.draft(0)).toEqual([])
  })

  it('drafts from the text alone with lookup, and nothing without; neither is remembered', async () => {
    const speculation = new Speculation()
    finish(speculation.open('lookup', TEXT, CAPACITY), [])
    finish(speculation.open('off', TEXT, CAPACITY), [])
    expect(await speculation.open('history', TEXT.slice(0, 2), CAPACITY).draft(4)).toEqual([])
    finish(speculation.open('history', TEXT, CAPACITY), [])
    expect(await speculation.open('lookup', TEXT.slice(0, 2), CAPACITY).draft(4)).toEqual([])
    expect(await speculation.open('lookup', [...TEXT, ...TEXT.slice(0, 2)], CAPACITY).draft(4)).toEqual(TEXT.slice(2, 6))
    expect(await speculation.open('off', [...TEXT, ...TEXT], CAPACITY).draft(4)).toEqual([])
  })

  it('remembers a text once, and of a text that is under way nothing', async () => {
    const speculation = new Speculation()
    const text = speculation.open('history', TEXT, CAPACITY)
    expect(await speculation.open('history', TEXT.slice(0, 2), CAPACITY).draft(4)).toEqual([])
    text.end()
    text.end()
    expect(await speculation.open('history', [TEXT.at(-1)!], CAPACITY).draft(4)).toEqual([])
  })

  it('stops drafting where drafts are refused, tries again now and then, and drafts again once they are accepted', async () => {
    const speculation = new Speculation()
    const text = speculation.open('lookup', [1, 1, 1], 4_000)
    const round = async (isAccepted: boolean): Promise<number> => {
      const sent = (await text.draft(4)).length
      text.committed([1], { sent, accepted: isAccepted ? sent : 0, ms: 10 + 5 * sent })
      return sent
    }
    for (let i = 0; i < 200; i++) await round(false)
    let refused = 0
    for (let i = 0; i < 64; i++) if (await round(false) > 0) refused++
    expect(refused).toBeGreaterThan(0)
    expect(refused).toBeLessThanOrEqual(4)
    for (let i = 0; i < 3_000; i++) await round(true)
    expect(await round(true)).toBeGreaterThan(0)
  })

  it('asks the map where the match is short, and only where the mode allows it', async () => {
    const asked: number[] = []
    const predict = async (count: number): Promise<number[]> => {
      asked.push(count)
      return await Promise.resolve([20, 21, 22, 23].slice(0, count))
    }
    const speculation = new Speculation()
    expect(await speculation.open('map', [1, 2, 3], CAPACITY).draft(3, predict)).toEqual([20, 21, 22])
    expect(asked).toEqual([3])
    expect(await speculation.open('map', [1, 2, 3, 1, 2], CAPACITY).draft(2, predict)).toEqual([3, 1])
    expect(await speculation.open('map', [1, 2, 3], CAPACITY).draft(0, predict)).toEqual([])
    expect(await speculation.open('history', [1, 2, 3], CAPACITY).draft(3, predict)).toEqual([])
    expect(asked).toEqual([3])
    expect(await speculation.open('map', [5, 6, 5], CAPACITY).draft(1, async () => await Promise.resolve([]))).toEqual([6])
  })

  it('counts round trips, drafted and accepted tokens', async () => {
    const text = new Speculation().open('lookup', [1, 1], CAPACITY)
    text.committed([2], { sent: 0, accepted: 0, ms: undefined })
    text.committed([1, 1, 1], { sent: 0, accepted: 0, ms: 1 })
    const { length: sent } = await text.draft(4)
    text.committed([1, 1], { sent, accepted: 1, ms: 1 })
    expect(text.statistics).toEqual({ roundTrips: 3, drafted: sent, accepted: 1 })
  })
})
