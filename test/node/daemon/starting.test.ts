import { describe, expect, it, onTestFinished } from 'vitest'
import { startDaemon } from '../../../src/node/daemon/daemon.ts'
import { run } from '../../cli/helpers.ts'
import { ask, founded, hasStories, idleRoles, loopback } from '../fixture.ts'

describe.runIf(hasStories)('a daemon that starts', { timeout: 60_000 }, () => {
  it('says what it is doing and since when, and refuses work until it is ready', async () => {
    const { home } = await founded()
    const loading = Promise.withResolvers<void>()
    const loaded = Promise.withResolvers<void>()
    const before = Date.now()
    const starting = startDaemon(home, { listen: loopback }, {
      roles: {
        ...idleRoles,
        server: async (context) => {
          loading.resolve()
          await loaded.promise
          return await idleRoles.server(context)
        }
      }
    })
    await loading.promise
    const { starting: now, connected } = await ask<{ starting: { doing: string, since: string }, connected: boolean }>(home, 'status')
    expect([now.doing, connected]).toEqual(['loading blocks 1-4', false])
    expect(Date.parse(now.since)).toBeGreaterThanOrEqual(before)
    const { code, out } = await run(['status', '--home', home])
    expect(code).toBe(0)
    expect(out).toMatch(/^starting +loading blocks 1-4, since 20/m)
    expect(await run(['peers', '--home', home])).toMatchObject({
      code: 3,
      err: expect.stringMatching(/^midspan: the daemon is starting: loading blocks 1-4, since /) as string
    })
    loaded.resolve()
    const daemon = await starting
    onTestFinished(async () => { await daemon.stop() })
    expect(await ask(home, 'status')).not.toHaveProperty('starting')
    expect((await run(['peers', '--home', home])).code).toBe(0)
  })

  it('answers no more when it could not start', async () => {
    const { home } = await founded()
    const starting = startDaemon(home, { listen: loopback }, { roles: { ...idleRoles, server: async () => { throw new Error('no memory') } } })
    await expect(starting).rejects.toThrow('no memory')
    expect((await run(['status', '--home', home])).code).toBe(3)
  })
})
