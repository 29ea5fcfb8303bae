import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { MidspanError } from '../../../src/errors.ts'
import { BadMessageError } from '../../../src/protocols/wire/errors.ts'
import { RouteCache, type RouteOptions } from '../../../src/roles/middle/route-cache.ts'
import { RouteStatistics } from '../../../src/roles/middle/route-statistics.ts'
import type { StageCache } from '../../../src/roles/middle/stage.ts'
import type { Span } from '../../../src/span.ts'
import { CountingBlocks, CountingServer, CountingSource, numbers, reset, statesAt } from './counting-stage.ts'

const MIDDLE = { first: 1, end: 7 }
const CAPACITY = 64
const span = (first: number, end: number): Span => ({ first, end })

const open = async (source: CountingSource, options: RouteOptions = {}): Promise<RouteCache> =>
  await RouteCache.open(source, MIDDLE, { timeoutMs: 5_000, ...options, capacity: CAPACITY })

/** Sends a prompt of four tokens and then one token at a time, and returns what comes back of each message. */
async function text (cache: StageCache, tokens: number): Promise<number[][]> {
  const outputs = [numbers(await cache.forward(statesAt(0, 4)))]
  for (let position = 4; position < tokens; position++) outputs.push(numbers(await cache.forward(statesAt(position, 1))))
  return outputs
}

/** What an undisturbed server would answer. */
function expected (tokens: number): number[][] {
  const blocks = new CountingBlocks(MIDDLE)
  return [[0, 4], ...Array.from({ length: tokens - 4 }, (_, i) => [4 + i, 1])]
    .map(([position, count]) => blocks.compute(numbers(statesAt(position!, count!).tensors), position!))
}

/** What block `first` is sent at every position. */
function inputsOf (first: number, tokens: number): number[] {
  const released = numbers(statesAt(0, tokens).tensors)
  return first === MIDDLE.first ? released : new CountingBlocks(span(MIDDLE.first, first)).compute(released, 0)
}

function expectTrueInputs (servers: readonly CountingServer[], tokens: number): void {
  for (const { received } of servers)
    for (const { first, position, values } of received)
      expect(values).toEqual(inputsOf(first, tokens).slice(position, position + values.length))
}

/** Rejects when the signal aborts. */
async function aborted (signal: AbortSignal): Promise<never> {
  return await new Promise((_, reject) => { signal.addEventListener('abort', () => { reject(signal.reason as Error) }) })
}

/** Any servers beside one that has all blocks and never fails, and the requests at which they fail. */
const anyServers = fc.array(
  fc.record({ first: fc.integer({ min: 1, max: 6 }), length: fc.integer({ min: 1, max: 6 }), failsAt: fc.integer({ min: 1, max: 12 }) }),
  { maxLength: 6 }
)
const steps = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ send: fc.integer({ min: 1, max: 5 }) }) },
    { weight: 1, arbitrary: fc.record({ back: fc.integer({ min: 1, max: 6 }) }) }
  ),
  { minLength: 1, maxLength: 12 }
)

describe('a sequence over several servers', () => {
  it('is what one server makes of it, whichever servers fail whenever, and every server is sent what it was sent before', async () => {
    await fc.assert(fc.asyncProperty(anyServers, steps, fc.constantFrom(1, 3, 512), async (some, all, replayTokens) => {
      const rock = new CountingServer('rock', MIDDLE)
      const servers = some.map(({ first, length, failsAt }, i) => {
        const server = new CountingServer(`s${i}`, span(first, Math.min(first + length, MIDDLE.end)))
        server.onRequest = (request) => request === failsAt ? reset() : undefined
        return server
      })
      const source = new CountingSource([rock, ...servers])
      const cache = await open(source, { replayTokens })
      const reference = new CountingBlocks(MIDDLE)
      let position = 0
      for (const step of all) {
        if ('back' in step) {
          position = Math.max(0, position - step.back)
          cache.rewind(position)
          continue
        }
        const states = statesAt(position, step.send)
        expect(numbers(await cache.forward(states))).toEqual(reference.compute(numbers(states.tensors), position))
        position += step.send
        expect(cache.length).toBe(position)
      }
      await cache.close()
      expectTrueInputs([rock, ...servers], CAPACITY)
      for (const { opened, closed } of [rock, ...servers]) expect(closed).toBe(opened)
      expect(source.listeners).toBe(0)
    }))
  })

  it('replaces a lost stage alone: the others are not opened again, and are sent nothing twice', async () => {
    const [a, b] = [new CountingServer('a', span(1, 3)), new CountingServer('b', span(3, 5))]
    const [b2, c] = [new CountingServer('b2', span(3, 5)), new CountingServer('c', span(5, 7))]
    for (const server of [b, b2]) server.onRequest = (request) => request === 4 && b.opened + b2.opened === 1 ? reset() : undefined
    const statistics = new RouteStatistics()
    const cache = await open(new CountingSource([a, b, b2, c]), { statistics })
    expect(await text(cache, 12)).toEqual(expected(12))
    await cache.close()
    for (const { opened, received } of [a, c]) {
      expect(opened).toBe(1)
      expect(received.map(({ position }) => position)).toEqual([0, 4, 5, 6, 7, 8, 9, 10, 11])
    }
    const [lost, other] = b.opened === 1 && b.received.length === 3 ? [b, b2] : [b2, b]
    expect(lost.received).toHaveLength(3)
    expect(other.received.map(({ position, values }) => [position, values.length]))
      .toEqual([[0, 6], ...[6, 7, 8, 9, 10, 11].map((at) => [at, 1])])
    expect(statistics.legs.map(({ server, tokens, replayedTokens }) => [server, tokens, replayedTokens]))
      .toEqual([['a', 12, 0], [lost.id, 6, 0], [other.id, 12, 6], ['c', 12, 0]])
  })

  it('puts several servers in the place of one', async () => {
    const whole = new CountingServer('whole', MIDDLE)
    whole.onRequest = (request) => request === 5 ? reset() : undefined
    const parts = [new CountingServer('left', span(0, 4)), new CountingServer('right', span(4, 9))]
    for (const part of parts) part.isDoubtful = true
    const source = new CountingSource([whole, ...parts])
    const cache = await open(source)
    for (const part of parts) part.isDoubtful = false
    expect(await text(cache, 10)).toEqual(expected(10))
    expectTrueInputs([whole, ...parts], 10)
    await cache.close()
  })

  it('waits where the only holder of some blocks is gone, says so, and goes on at once when somebody comes', async () => {
    const [a, b] = [new CountingServer('a', span(1, 4)), new CountingServer('b', span(4, 7))]
    b.onRequest = (request) => request >= 3 ? reset() : undefined
    b.onOpen = () => b.opened > 0 ? reset() : undefined
    const source = new CountingSource([a, b])
    const waits: string[] = []
    const cache = await open(source, {
      onWaiting: (reason) => {
        if (waits.push(reason) === 1)
          setTimeout(() => { source.change(() => { source.servers.push(new CountingServer('c', span(2, 7))) }) }, 20)
      }
    })
    expect(await text(cache, 10)).toEqual(expected(10))
    expect(waits[0]).toMatch(/^blocks 4-7: nobody serves them now \(b \(blocks 4-7\): the stream was reset\)/)
    await cache.close()
  })

  it('tries the only holder again and again, and gives up by the timeout with what it failed with', async () => {
    const only = new CountingServer('only', MIDDLE)
    const cache = await open(new CountingSource([only]), { timeoutMs: 700 })
    await cache.forward(statesAt(0, 4))
    only.onOpen = reset
    only.onRequest = reset
    await expect(cache.forward(statesAt(4, 1))).rejects.toMatchObject({
      code: 'E_CHANNEL_RESET', message: 'only (blocks 1-7): the stream was reset'
    })
    expect(cache.length).toBe(4)
    only.onOpen = () => {}
    only.onRequest = () => {}
    expect(numbers(await cache.forward(statesAt(4, 1)))).toEqual(expected(5)[1])
    await cache.close()
  })

  it('waits for blocks that nobody has, and says which when the time is up', async () => {
    const waits: string[] = []
    const source = new CountingSource([new CountingServer('a', span(0, 3)), new CountingServer('b', span(4, 5))])
    await expect(open(source, { timeoutMs: 300, onWaiting: (reason) => { waits.push(reason) } })).rejects.toMatchObject({
      code: 'E_NO_SERVER', message: 'blocks 3-4 and 5-7: nobody serves them'
    })
    expect(waits).toEqual(['blocks 3-4 and 5-7: nobody serves them now; the text goes on when somebody does'])
    expect(source.listeners).toBe(0)
  })

  it.each([
    ['a refusal', () => { throw new MidspanError('E_CACHE_FULL', 'no room') }],
    ['a bad answer', () => { throw new BadMessageError('what') }]
  ])('goes to another server after %s, and ends with it where there is none', async (_, fail) => {
    const [a, b] = [new CountingServer('a', MIDDLE), new CountingServer('b', MIDDLE)]
    a.onRequest = fail
    const source = new CountingSource([a, b])
    a.isDoubtful = false
    b.isDoubtful = true
    const cache = await open(source)
    b.isDoubtful = false
    expect(await text(cache, 6)).toEqual(expected(6))
    await cache.close()
    const alone = await open(new CountingSource([a]))
    await expect(alone.forward(statesAt(0, 1))).rejects.toMatchObject({
      message: expect.stringMatching(/^a \(blocks 1-7\): /) as string
    })
    await alone.close()
  })

  it('does not take a mistake of this program for a failure of a server', async () => {
    const [a, b] = [new CountingServer('a', MIDDLE), new CountingServer('b', MIDDLE)]
    for (const server of [a, b]) server.onRequest = () => { throw new TypeError('x is not a function') }
    const source = new CountingSource([a, b])
    const cache = await open(source)
    await expect(cache.forward(statesAt(0, 1))).rejects.toThrow(TypeError)
    expect(source.failures).toEqual([])
    await cache.close()
  })

  it('leaves a server that does not answer as soon as another can take its place, and not before', async () => {
    const [a, b] = [new CountingServer('a', MIDDLE), new CountingServer('b', MIDDLE)]
    a.onRequest = async (request, signal) => { if (request === 3) await aborted(signal!) }
    b.isDoubtful = true
    const source = new CountingSource([a, b])
    const cache = await open(source, { leastStallMs: 20 })
    const [first, second] = [statesAt(0, 4), statesAt(4, 1)]
    const before = [numbers(await cache.forward(first)), numbers(await cache.forward(second))]
    let answered = false
    const late = cache.forward(statesAt(5, 1)).finally(() => { answered = true })
    await delay(150)
    expect(answered).toBe(false)
    source.change(() => { b.isDoubtful = false })
    expect([...before, numbers(await late)]).toEqual(expected(6))
    expect(source.failures).toMatchObject([['a', { code: 'E_CHANNEL_TIMEOUT' }]])
    await cache.close()
  })

  it('has more patience after each late answer that it gave up', async () => {
    vi.useFakeTimers()
    onTestFinished(() => { vi.useRealTimers() })
    const servers = ['a', 'b', 'c'].map((id) => new CountingServer(id, MIDDLE))
    let requests = 0
    for (const server of servers) server.onRequest = async (_, signal) => { if (++requests < 3) await aborted(signal!) }
    const cache = await open(new CountingSource(servers), { leastStallMs: 1_000 })
    const answer = cache.forward(statesAt(0, 1))
    const after: number[] = []
    for (let i = 0; i < 3; i++) {
      await vi.advanceTimersByTimeAsync(1_000)
      after.push(requests)
    }
    expect(after).toEqual([2, 2, 3])
    await answer
    await cache.close()
  })

  it('ends when its caller does, while it waits', async () => {
    const cache = await open(new CountingSource([new CountingServer('a', MIDDLE)]))
    const source = new CountingSource([])
    const gone = new AbortController()
    const opening = RouteCache.open(source, MIDDLE, { capacity: CAPACITY }, gone.signal)
    gone.abort(new MidspanError('E_CALLER_GONE', 'gone'))
    await expect(opening).rejects.toMatchObject({ code: 'E_CALLER_GONE' })
    expect(source.listeners).toBe(0)
    await cache.close()
  })

  it('counts bytes of sessions that are open and of those that are over', () => {
    const statistics = new RouteStatistics()
    const [one, two] = [{ traffic: { sentBytes: 1, receivedBytes: 10 } }, { traffic: { sentBytes: 2, receivedBytes: 20 } }]
    statistics.opened('a', MIDDLE, one)
    statistics.closed('a', MIDDLE, one)
    statistics.closed('a', MIDDLE, one)
    statistics.opened('b', MIDDLE, two)
    two.traffic = { sentBytes: 5, receivedBytes: 50 }
    expect(statistics.traffic).toEqual({ sentBytes: 6, receivedBytes: 60 })
  })
})
