import { setImmediate as turn } from 'node:timers/promises'
import pino from 'pino'
import { describe, expect, it, vi } from 'vitest'
import { DRAIN_LIMIT_MS, FAILED_REST_MS, Mover, URGENT_DRAIN_LIMIT_MS, type MoverOptions } from '../../../src/node/daemon/mover.ts'

const move = { to: { first: 2, end: 4 }, reason: 'moves from 0-2 to 2-4', isUrgent: false }
const other = { to: { first: 4, end: 6 }, reason: 'moves from 0-2 to 4-6', isUrgent: false }

/** A mover whose steps end when the test says so, and what it did. */
function moving (options: Partial<MoverOptions> = {}) {
  const did: string[] = []
  const fetched = Promise.withResolvers<void>()
  const idle = Promise.withResolvers<void>()
  const until = async (promise: Promise<void>, signal: AbortSignal): Promise<void> => {
    const { promise: aborted, reject } = Promise.withResolvers<void>()
    signal.addEventListener('abort', () => { reject(signal.reason as Error) }, { once: true })
    await Promise.race([promise, aborted])
  }
  const mover = new Mover({
    span: { first: 0, end: 2 },
    memoryBytes: 1000,
    weights: 'fp32',
    reason: 'came so',
    logger: pino({ level: 'silent' }),
    fetch: async ({ first }, signal) => {
      did.push(`fetch ${first}`)
      await until(fetched.promise, signal)
    },
    drain: () => {
      did.push('drain')
      return { idle: async (signal) => { await until(idle.promise, signal) }, end: () => { did.push('end of drain') } }
    },
    commit: async ({ to }) => { did.push(`commit ${to.first}`) },
    changed: () => { did.push(`announce ${mover.placement === undefined ? 'staying' : mover.placement.isDraining ? 'draining' : 'serving'}`) },
    ...options
  })
  const settled = async (): Promise<string[]> => {
    for (let count = 0; count < 5; count++) await turn()
    return did
  }
  return { mover, fetched, idle, settled }
}

describe('a server that is asked to move', () => {
  it('fetches while it serves, begins nothing new, and takes the blocks over when nothing is under way', async () => {
    const { mover, fetched, idle, settled } = moving()
    mover.asked(move)
    mover.asked({ ...move })
    expect(await settled()).toEqual(['fetch 2'])
    expect(mover.placement).toEqual({ memoryBytes: 1000, weights: 'fp32', isDraining: false, reason: 'came so' })
    fetched.resolve()
    expect(await settled()).toEqual(['fetch 2', 'drain', 'announce draining'])
    expect(mover.placement).toMatchObject({ isDraining: true, reason: move.reason })
    idle.resolve()
    expect((await settled()).slice(3)).toEqual(['commit 2'])
    mover.asked(undefined)
    expect((await settled()).slice(4)).toEqual([])
  })

  it.each([false, true])('goes when its time is up, whatever is under way then, earlier where nobody is served until then (%s)', async (isUrgent) => {
    expect(URGENT_DRAIN_LIMIT_MS).toBeLessThan(DRAIN_LIMIT_MS)
    const limits = { usual: DRAIN_LIMIT_MS, urgent: DRAIN_LIMIT_MS, [isUrgent ? 'urgent' : 'usual']: 1 }
    const { mover, fetched, settled } = moving({ drainLimitMs: limits })
    fetched.resolve()
    mover.asked({ ...move, isUrgent })
    await vi.waitFor(async () => { expect(await settled()).toContain('commit 2') })
  })

  it.each(['fetches', 'drains'])('stays as it was when the move is called off while it %s', async (when) => {
    const { mover, fetched, settled } = moving()
    if (when === 'drains') fetched.resolve()
    mover.asked(move)
    await settled()
    mover.asked(undefined)
    expect((await settled()).filter((step) => step.startsWith('commit'))).toEqual([])
    expect((await settled()).filter((step) => step.endsWith('drain'))).toEqual(when === 'drains' ? ['drain', 'end of drain'] : [])
    expect(mover.placement).toMatchObject({ isDraining: false, reason: 'came so' })
  })

  it('goes elsewhere when it is asked for other blocks meanwhile, one move after the other', async () => {
    const { mover, fetched, idle, settled } = moving()
    mover.asked(move)
    await settled()
    mover.asked(other)
    fetched.resolve()
    idle.resolve()
    expect((await settled()).filter((step) => /fetch|commit/.test(step))).toEqual(['fetch 2', 'fetch 4', 'commit 4'])
  })

  it('does nothing for the blocks that it has', async () => {
    const { mover, settled } = moving()
    mover.asked({ to: { first: 0, end: 2 }, reason: '', isUrgent: false })
    expect(await settled()).toEqual([])
  })

  it('says that it stays where it is for a while after it could not move', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    try {
      const { mover, idle, settled } = moving({ fetch: async () => { throw new Error('no space left') } })
      idle.resolve()
      mover.asked(move)
      expect(await settled()).toEqual(['announce staying'])
      mover.asked(move)
      expect(await settled()).toEqual(['announce staying'])
      vi.advanceTimersByTime(FAILED_REST_MS)
      expect(await settled()).toEqual(['announce staying', 'announce serving'])
    } finally {
      vi.useRealTimers()
    }
  })

  it('serves on where it cannot note that it moved', async () => {
    const { mover, fetched, idle, settled } = moving({ commit: async () => { throw new Error('no space left') } })
    fetched.resolve()
    idle.resolve()
    mover.asked(move)
    expect((await settled()).slice(-2)).toEqual(['end of drain', 'announce staying'])
  })

  it('ends what is under way when the daemon stops', async () => {
    const { mover, settled } = moving()
    mover.asked(move)
    await settled()
    await mover.stop()
    mover.asked(other)
    expect(await settled()).toEqual(['fetch 2'])
  })
})
