import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { parseParameters } from '../../../src/api/check.ts'
import type { EventOf } from '../../../src/api/operations.ts'
import { MidspanError } from '../../../src/errors.ts'
import { saysWaits, waitingForServers, type Links } from '../../../src/node/daemon/server-waits.ts'
import { RefusedError, REFUSALS } from '../../../src/protocols/hello/index.ts'

const never = (): AbortSignal => new AbortController().signal
const linked: Links = { servers: () => [{ connected: true }], failure: () => undefined }
const down: Links = { servers: () => [{ connected: false }], failure: () => new MidspanError('E_UNREACHABLE', 'nobody listens') }
const round = { type: 'waiting', reason: 'the next round begins when this one is over' } as const
const generated: EventOf<'generate'> = {
  type: 'done', text: '', ids: [], reason: 'length', promptTokens: 1, tokens: 0, prefillSeconds: 0, decodeSeconds: 0, tokensPerSecond: 0,
  roundTrips: 1, releasedStates: 1, reusedTokens: 0, draftedTokens: 0, acceptedTokens: 0,
  sentBytes: 0, receivedBytes: 0, route: [], networkShare: 0
}

async function hang (signal: AbortSignal): Promise<never> {
  await new Promise((_, reject) => { signal.addEventListener('abort', () => { reject(signal.reason as Error) }) })
  throw new Error('unreachable')
}

/** Resolves when so much time of the fake clock has passed. */
async function delay (ms: number): Promise<void> {
  await new Promise((resolve) => { setTimeout(resolve, ms) })
}

/** Collects what comes while a second of the fake clock passes, and after it. */
async function collect<T> (events: AsyncIterable<T>): Promise<{ events: T[], error: unknown }> {
  const all: T[] = []
  const collecting = (async () => {
    for await (const event of events) all.push(event)
  })().then(() => undefined, (error: unknown) => error)
  await vi.advanceTimersByTimeAsync(1_000)
  return { events: all, error: await collecting }
}

describe('operations that wait for servers', () => {
  beforeEach(() => { vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }) })
  afterEach(() => { vi.useRealTimers() })

  it('say why no server is connected, and give up by the timeout with a typed error', async () => {
    const offered = waitingForServers({ async *generate () { yield generated } }, down, 20)
    const { events, error } = await collect(offered.generate!(parseParameters('generate', { prompt: 'x', timeoutMs: 50 }), never()))
    expect(events[0]).toEqual({ type: 'waiting', reason: 'no server is connected: nobody listens' })
    expect(error).toMatchObject({ code: 'E_SERVER_TIMEOUT', message: 'gave up after 0.05 s: no server is connected: nobody listens' })
  })

  it('begin when a server is connected', async () => {
    let connected = false
    const links: Links = { ...down, servers: () => [{ connected }] }
    const offered = waitingForServers({ async *generate () { yield generated } }, links, 20)
    setTimeout(() => { connected = true }, 30)
    const { events, error } = await collect(offered.generate!(parseParameters('generate', { prompt: 'x' }), never()))
    expect([events.at(-1), error]).toEqual([generated, undefined])
  })

  it('end with the reason of a server that refuses this client', async () => {
    const refusal = new RefusedError(REFUSALS.notAdmitted, 'peer', 'removed')
    const offered = waitingForServers({ async *generate () { yield generated } }, { ...down, failure: () => refusal }, 20)
    const { error } = await collect(offered.generate!(parseParameters('generate', { prompt: 'x' }), never()))
    expect(error).toBe(refusal)
  })

  it('give up on a server that is connected and never answers', async () => {
    const ended = Promise.withResolvers<void>()
    const offered = waitingForServers({
      async *generate (_, signal) {
        yield { type: 'text', text: 'a' }
        await hang(signal).finally(ended.resolve)
      }
    }, linked, 20)
    const { events, error } = await collect(offered.generate!(parseParameters('generate', { prompt: 'x', timeoutMs: 50 }), never()))
    expect(events.slice(0, 2)).toEqual([
      { type: 'text', text: 'a' },
      { type: 'waiting', reason: "the server is connected, and neither its answer nor this machine's own work is done yet" }
    ])
    expect(error).toMatchObject({ code: 'E_SERVER_TIMEOUT' })
    await ended.promise
  })

  it('give up also where the operation goes on saying what it waits for', async () => {
    const offered = waitingForServers({
      async *generate (_, signal) {
        for (;;) {
          yield { type: 'waiting', reason: 'the connection was lost; trying again' }
          signal.throwIfAborted()
          await delay(5)
        }
      }
    }, linked, 20)
    const { error } = await collect(offered.generate!(parseParameters('generate', { prompt: 'x', timeoutMs: 50 }), never()))
    expect(error).toMatchObject({
      code: 'E_SERVER_TIMEOUT', message: 'gave up after 0.05 s: the connection was lost; trying again'
    })
  })

  it('give up also where the work does not heed its end', async () => {
    const offered = waitingForServers({
      async *generate () {
        await new Promise(() => {})
        yield generated
      }
    }, linked, 20)
    const { error } = await collect(offered.generate!(parseParameters('generate', { prompt: 'x', timeoutMs: 50 }), never()))
    expect(error).toMatchObject({ code: 'E_SERVER_TIMEOUT' })
  })

  it('do not give up while this machine is at work', async () => {
    const offered = waitingForServers({
      async *evaluate () {
        await delay(100)
        yield { type: 'start', records: 1, recordsRead: 1, skipped: 0, skippedLines: [], noticed: 0, notices: [] }
      }
    }, linked, 20)
    const { events, error } = await collect(offered.evaluate!(parseParameters('evaluate', { data: 'x', timeoutMs: 30 }), never()))
    expect(events[0]).toEqual({ type: 'waiting', reason: 'the data file is being read' })
    expect(error).toBeUndefined()
  })

  it('wait on in training, saying so', async () => {
    const offered = waitingForServers({
      async *train () {
        yield round
        await delay(100)
        yield round
      }
    }, down, 20)
    const { events, error } = await collect(offered.train!(parseParameters('train', { data: 'x' }), never()))
    expect(events.filter((event) => event.type === 'waiting' && event.reason.includes('nobody listens')).length).toBeGreaterThan(1)
    expect([events.at(-1), error]).toEqual([round, undefined])
  })

  it('say nothing more after the result', async () => {
    const waits = { links: linked, local: () => undefined, quietMs: 10 }
    const { events } = await collect(saysWaits('generate', async function * () {
      yield generated
      await delay(50)
    }, waits, never()))
    expect(events).toEqual([generated])
  })

  it('end with the caller', async () => {
    const caller = new AbortController()
    const offered = waitingForServers({ async *generate () { yield generated } }, down, 20)
    setTimeout(() => { caller.abort(new Error('enough')) }, 30)
    const { error } = await collect(offered.generate!(parseParameters('generate', { prompt: 'x' }), caller.signal))
    expect(error).toMatchObject({ name: 'AbortError' })
  })
})
