import { describe, expect, it } from 'vitest'
import { Backoff } from '../src/backoff.ts'

describe('pauses between tries', () => {
  it('double up to the longest, and start again after a success', () => {
    const backoff = new Backoff({ firstMs: 200, greatestMs: 1_000, random: () => 0 })
    expect([1, 2, 3, 4, 5].map(() => backoff.next())).toEqual([200, 400, 800, 1_000, 1_000])
    expect(backoff.failures).toBe(5)
    backoff.reset()
    expect([backoff.failures, backoff.next()]).toEqual([0, 200])
  })

  it('are shortened at random by up to a half, and are as long as is asked for before that', () => {
    expect(new Backoff({ firstMs: 200, greatestMs: 1_000, random: () => 0.5 }).next()).toBe(150)
    expect(new Backoff({ firstMs: 200, greatestMs: 1_000, random: () => 0.5 }).next(60_000)).toBe(45_000)
  })

  it('end with the signal', async () => {
    await expect(new Backoff({ firstMs: 60_000, greatestMs: 60_000 }).wait(AbortSignal.abort(new Error('enough')))).rejects.toThrow()
  })
})
