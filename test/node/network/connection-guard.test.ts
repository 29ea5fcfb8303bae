import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { ConnectionGuard, MEMBER_LIMITS, STRANGER_LIMITS } from '../../../src/node/network/connection-guard.ts'

function guarded (isMember: boolean) {
  const clock = { nowMs: 0 }
  const errors: Error[] = []
  const guard = new ConnectionGuard(() => isMember, (error) => { errors.push(error) }, () => clock.nowMs)
  /** How many of these events pass before the connection is ended; all of `most` where it is not. */
  const passing = (event: () => void, most: number): number => {
    for (let count = 0; count < most; count++) {
      event()
      if (errors.length > 0) return count
    }
    return most
  }
  return { clock, errors, guard, passing }
}

describe.each([['a stranger', false, STRANGER_LIMITS], ['a member', true, MEMBER_LIMITS]] as const)('the guard of %s', (_, isMember, limits) => {
  it('bounds the answers that the peer asks for at once, and says so once', () => {
    const { errors, guard, passing } = guarded(isMember)
    expect(passing(() => { guard.answered() }, 1_000)).toBe(limits.answers.atOnce)
    guard.answered()
    expect(errors.map(({ message }) => message)).toEqual(['the peer asks for answers too often'])
  })

  it('bounds the streams that the peer opens at once', () => {
    const { guard, passing } = guarded(isMember)
    expect(passing(() => { guard.opened() }, 1_000)).toBe(limits.streams.atOnce)
  })

  it('counts nothing more after it ended the connection', () => {
    const { guard, passing } = guarded(isMember)
    expect(guard.ended).toBe(false)
    passing(() => { guard.opened() }, 1_000)
    expect(guard.ended).toBe(true)
  })

  it('is not ended by a clock that is set back', () => {
    const { clock, guard, errors } = guarded(isMember)
    clock.nowMs = 3_600_000
    guard.opened()
    clock.nowMs = 0
    guard.opened()
    expect(errors).toEqual([])
  })

  it('lets pass what comes as slowly as it may', () => {
    const { clock, guard, passing } = guarded(isMember)
    expect(passing(() => {
      guard.answered()
      clock.nowMs += 1_000 / limits.answers.perSecond
    }, 1_000)).toBe(1_000)
  })
})

it('the limits of a connection are those of docs/wire.md', async () => {
  const text = await readFile(new URL('../../../docs/wire.md', import.meta.url), 'utf8')
  for (const [row, kind] of [
    ['streams opened', 'streams'],
    ['pings and refused streams answered', 'answers']
  ] as const) {
    const cells = [STRANGER_LIMITS, MEMBER_LIMITS].map(({ [kind]: { atOnce, perSecond } }) => `${atOnce}, ${perSecond}`)
    expect(text).toContain(`| ${row} at once, then each second | ${cells.join(' | ')} |`)
  }
})
