import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import { cacheBytes } from '../../../../src/model/generation/cache-size.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { CacheManager, chooseEvictions, type Account } from '../../../../src/roles/server/generation/cache-manager.ts'
import { readModelGolden } from '../../../helpers/golden.ts'

const NOW_MS = 100_000

describe('every eviction', () => {
  const choose = (accounts: Record<string, Account>, client: string, bytes: number): string[] | undefined =>
    chooseEvictions(new Map(Object.entries(accounts)), { client, bytes }, 100, NOW_MS)

  it('never takes a used cache of a client within its share, nor for one that would be beyond its own', () => {
    const accounts = fc.dictionary(
      fc.uuid(),
      fc.record({
        client: fc.constantFrom('a', 'b', 'c', 'd'),
        bytes: fc.integer({ min: 1, max: 30 }),
        usedAtMs: fc.integer({ min: 80_000, max: NOW_MS }),
        isBusy: fc.boolean()
      }),
      { maxKeys: 8 }
    )
    fc.assert(fc.property(accounts, fc.constantFrom('a', 'e'), fc.integer({ min: 1, max: 100 }), (given, client, bytes) => {
      const held = (name: string, without: readonly string[] = []): number =>
        Object.entries(given).reduce((sum, [id, one]) => sum + (one.client === name && !without.includes(id) ? one.bytes : 0), 0)
      const evicted = choose(given, client, bytes)
      if (evicted === undefined) return
      const all = Object.values(given).reduce((sum, one) => sum + one.bytes, 0)
      expect(all - evicted.reduce((sum, id) => sum + given[id]!.bytes, 0) + bytes).toBeLessThanOrEqual(100)
      const shareBytes = 100 / new Set([client, ...Object.values(given).map((one) => one.client)]).size
      for (const [i, id] of evicted.entries()) {
        const { client: owner, usedAtMs, isBusy } = given[id]!
        expect(isBusy).toBe(false)
        if (NOW_MS - usedAtMs >= 5_000) continue
        expect(held(client) + bytes).toBeLessThanOrEqual(shareBytes)
        expect(held(owner, evicted.slice(0, i))).toBeGreaterThan(shareBytes)
      }
    }))
  })
})

describe('CacheManager', () => {
  const model = modelOf(readModelGolden('llama/plain').config)
  const span = { first: 0, end: model.layers }
  const bytes = cacheBytes(model, span, 16)
  let device: Device
  beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
  afterAll(async () => { await device.close() })

  const managerOf = (sequences: number, clock = { nowMs: 0 }): CacheManager =>
    new CacheManager({ device, model, totalBytes: sequences * bytes, now: () => clock.nowMs })

  it('gives a client room that another holds idle, and tells the owner at its next request', async () => {
    const clock = { nowMs: 0 }
    const caches = managerOf(2, clock)
    const [first, second] = [await caches.open('1', 'a', span, 16), await caches.open('2', 'b', span, 16)]
    clock.nowMs = 6_000
    const third = await caches.open('3', 'c', span, 16)
    expect([caches.sequences, caches.evictions, caches.heldBytes]).toEqual([2, 1, 2 * bytes])
    expect(() => { caches.acquire(first) }).toThrow(expect.objectContaining({ code: 'E_CACHE_EVICTED', retryable: true }))
    caches.acquire(second)
    for (const sequence of [first, second, third]) caches.close(sequence)
    expect(caches.heldBytes).toBe(0)
    expect((await device.memory()).heldBytes).toBe(0)
  })

  it('accounts for a cache before its memory is taken', async () => {
    const caches = managerOf(1)
    const opening = caches.open('1', 'a', span, 16)
    expect(caches.heldBytes).toBe(bytes)
    await expect(caches.open('2', 'a', span, 32)).rejects.toMatchObject({ code: 'E_CACHE_FULL' })
    caches.close(await opening)
  })

  it('lets an opening wait until a cache in use is closed, or until it is given up itself', async () => {
    const caches = managerOf(1)
    const first = await caches.open('1', 'a', span, 16)
    caches.acquire(first)
    const waiting = caches.open('2', 'b', span, 16)
    const leaving = new AbortController()
    const given = caches.open('3', 'c', span, 16, leaving.signal)
    leaving.abort(new Error('gone'))
    await expect(given).rejects.toThrow('gone')
    caches.close(first)
    caches.close(await waiting)
    expect(caches.heldBytes).toBe(0)
  })
})
