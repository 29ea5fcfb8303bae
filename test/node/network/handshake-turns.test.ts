import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ADDRESS_HANDSHAKES, HandshakeTurns, RECENT_HANDSHAKES, STRANGERS_HANDSHAKES } from '../../../src/node/network/handshake-turns.ts'

function turnsOf () {
  const clock = { nowMs: 0 }
  let pending: { atMs: number, callback: () => void } | undefined
  const turns = new HandshakeTurns(() => clock.nowMs, (afterMs, callback) => {
    const mine = { atMs: clock.nowMs + afterMs, callback }
    pending = mine
    return () => { if (pending === mine) pending = undefined }
  })
  const begun: string[] = []
  return {
    turns,
    begun,
    request: (key: string, isRecent = false): (() => void) => turns.request(key, isRecent, () => { begun.push(key) }),
    /** Lets time pass, and what is due happen in it. */
    pass: (ms: number): void => {
      const endMs = clock.nowMs + ms
      while (pending !== undefined && pending.atMs <= endMs) {
        const { atMs, callback } = pending
        pending = undefined
        clock.nowMs = atMs
        callback()
      }
      clock.nowMs = endMs
    },
    setBack: (ms: number): void => { clock.nowMs -= ms }
  }
}

function times (count: number, act: () => void): void {
  for (let index = 0; index < count; index++) act()
}

describe('the turns of handshakes', () => {
  it.each([['a stranger', false, ADDRESS_HANDSHAKES], ['a member', true, RECENT_HANDSHAKES]] as const)(
    'of the address of %s come so many at once, and then so many each second', (_, isRecent, { atOnce, perSecond }) => {
      const { begun, pass, request } = turnsOf()
      times(atOnce + 100, () => { request('a', isRecent) })
      expect(begun).toHaveLength(atOnce)
      pass(1_000)
      expect(begun).toHaveLength(atOnce + perSecond)
    }
  )

  it('of all strangers together are bounded, and those of members come besides', () => {
    const { begun, pass, request } = turnsOf()
    for (let address = 0; address < 60; address++) times(5, () => { request(`address ${address}`) })
    expect(begun).toHaveLength(STRANGERS_HANDSHAKES.atOnce)
    request('home', true)
    expect(begun.at(-1)).toBe('home')
    pass(1_000)
    expect(begun).toHaveLength(STRANGERS_HANDSHAKES.atOnce + 1 + STRANGERS_HANDSHAKES.perSecond)
  })

  it('come first to the address that had the fewest', () => {
    const { begun, pass, request } = turnsOf()
    for (let address = 0; address < 20; address++) times(15, () => { request(`crowd ${address}`) })
    request('newcomer')
    expect(begun).not.toContain('newcomer')
    pass(1_000 / STRANGERS_HANDSHAKES.perSecond)
    expect(begun.at(-1)).toBe('newcomer')
  })

  it('come first to the site that had the fewest, however many addresses another has', () => {
    const { begun, pass, request } = turnsOf()
    for (let address = 0; address < 300; address++) request(`2001:db8:1:${address.toString(16)}::/64`)
    request('2001:db8:2:0::/64')
    expect(begun).not.toContain('2001:db8:2:0::/64')
    pass(1_000 / STRANGERS_HANDSHAKES.perSecond)
    expect(begun.at(-1)).toBe('2001:db8:2:0::/64')
  })

  it('come ever more seldom to an address with blame, and as before when it was quiet for long', () => {
    const { begun, pass, request, turns } = turnsOf()
    const within = (ms: number): number => {
      const before = begun.length
      const giveUps = Array.from({ length: 50 }, () => request('a'))
      pass(ms)
      for (const giveUp of giveUps) giveUp()
      return begun.length - before
    }
    within(1_000)
    turns.blame('a', 4)
    expect(within(1_000)).toBe(2)
    turns.blame('a', 2)
    expect(within(2_000)).toBeLessThanOrEqual(1)
    turns.blame('a', 100)
    expect(within(8_000)).toBeLessThanOrEqual(3)
    expect(within(4_000)).toBe(1)
    pass(20 * 60_000)
    expect(within(1_000)).toBe(12)
  })

  it('come once a second to a member\'s address whatever others did there', () => {
    const { begun, pass, request, turns } = turnsOf()
    turns.blame('home', 100)
    times(10, () => { request('home', true) })
    pass(5_000)
    expect(begun.length).toBeGreaterThanOrEqual(5)
  })

  it('are not given to those that gave up', () => {
    const { begun, pass, request, turns } = turnsOf()
    times(10, () => { request('a') })
    request('a')()
    expect(turns.waiting).toBe(0)
    pass(60_000)
    expect(begun).toHaveLength(10)
  })

  it('are given in the end to everybody who waits, whatever the order, the blame and the clock', () => {
    const step = fc.record({
      key: fc.nat(6), isRecent: fc.boolean(), blame: fc.nat(3), passMs: fc.nat(3_000), setBackMs: fc.constantFrom(0, 0, 3_600_000)
    })
    fc.assert(fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { begun, pass, request, setBack, turns } = turnsOf()
      for (const { key, isRecent, blame, passMs, setBackMs } of steps) {
        request(`address ${key}`, isRecent)
        if (blame > 0) turns.blame(`address ${key}`, blame)
        pass(passMs)
        setBack(setBackMs)
      }
      pass(80 * 3_600_000)
      expect(begun).toHaveLength(steps.length)
      expect(turns.waiting).toBe(0)
    }), { numRuns: 50 })
  })
})
