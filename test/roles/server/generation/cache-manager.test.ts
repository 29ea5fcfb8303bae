import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { chooseEvictions, type Account } from '../../../../src/roles/server/generation/cache-manager.ts'

const NOW_MS = 100_000
const account = (client: string, bytes: number, idleMs: number, isBusy = false): Account =>
  ({ client, bytes, usedAtMs: NOW_MS - idleMs, isBusy })
const accounts = (...all: Account[]): Map<string, Account> => new Map(all.map((one, i) => [`${i}`, one]))

describe('chooseEvictions', () => {
  it('takes nothing where there is room', () => {
    expect(chooseEvictions(accounts(account('a', 40, 60_000)), { client: 'b', bytes: 60 }, 100, NOW_MS)).toEqual([])
  })

  it('takes the caches that were unused longest, and no more than needed', () => {
    const held = accounts(account('a', 30, 10_000), account('a', 30, 30_000), account('a', 30, 20_000))
    expect(chooseEvictions(held, { client: 'b', bytes: 60 }, 100, NOW_MS)).toEqual(['1', '2'])
  })

  it('takes a cache in recent use only from a client beyond its share, for one within its own', () => {
    const greedy = accounts(account('greedy', 50, 10), account('greedy', 50, 20))
    expect(chooseEvictions(greedy, { client: 'modest', bytes: 50 }, 100, NOW_MS)).toEqual(['1'])
    expect(chooseEvictions(greedy, { client: 'modest', bytes: 60 }, 100, NOW_MS)).toBeUndefined()
    const fair = accounts(account('a', 50, 10), account('b', 50, 20))
    expect(chooseEvictions(fair, { client: 'a', bytes: 10 }, 100, NOW_MS)).toBeUndefined()
  })

  it('never takes a cache that computes, however long it has', () => {
    expect(chooseEvictions(accounts(account('a', 100, 60_000, true)), { client: 'b', bytes: 10 }, 100, NOW_MS)).toBeUndefined()
  })

  it('makes enough room by caches that may go, or takes none', () => {
    const any = fc.array(
      fc.record({
        client: fc.constantFrom('a', 'b', 'c'),
        bytes: fc.integer({ min: 1, max: 40 }),
        idleMs: fc.nat(10_000),
        isBusy: fc.boolean()
      })
        .map(({ client, bytes, idleMs, isBusy }) => account(client, bytes, idleMs, isBusy)),
      { maxLength: 8 }
    )
    fc.assert(fc.property(any, fc.constantFrom('a', 'd'), fc.integer({ min: 1, max: 100 }), (all, client, bytes) => {
      const held = accounts(...all)
      const totalBytes = Math.max(100, all.reduce((sum, one) => sum + one.bytes, 0))
      const evicted = chooseEvictions(held, { client, bytes }, totalBytes, NOW_MS)
      if (evicted === undefined) return
      expect(new Set(evicted).size).toBe(evicted.length)
      expect(evicted.every((id) => held.get(id)?.isBusy === false)).toBe(true)
      const left = [...held].filter(([id]) => !evicted.includes(id)).reduce((sum, [, one]) => sum + one.bytes, 0)
      expect(left + bytes).toBeLessThanOrEqual(totalBytes)
    }))
  })
})
