import { chmod, mkdir, readFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { MidspanError } from '../../../src/errors.ts'
import { ControlClient } from '../../../src/node/control/client.ts'
import { startControlServer } from '../../../src/node/control/server.ts'
import { homeAt, type Home } from '../../../src/node/home/home.ts'
import type { Operation } from '../../../src/roles/context.ts'
import { temporaryDirectory } from '../fixture.ts'

const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
const soon = (): AbortSignal => AbortSignal.timeout(5000)

async function served (operations: Record<string, Operation>, home?: Home) {
  const at = home ?? homeAt(await temporaryDirectory())
  const server = await startControlServer(at, operations, quiet)
  onTestFinished(async () => { await server.stop() })
  return { server, client: new ControlClient(at) }
}

async function collect (events: AsyncIterable<object>): Promise<object[]> {
  const all: object[] = []
  for await (const event of events) all.push(event)
  return all
}

describe('the control socket', () => {
  it('answers a request with the operation\'s first event', async () => {
    const { client } = await served({ async *echo (parameters) { yield { parameters } } })
    expect(await client.request('echo', { a: 1 }, soon())).toEqual({ parameters: { a: 1 } })
  })

  it('streams the events of a long operation in order, whatever their text', async () => {
    const { client } = await served({ async *count () { for (let i = 0; i < 2000; i++) yield { i, text: 'line\nbreak\u2028' } } })
    const events = await collect(client.stream('count', {}, soon()))
    expect(events).toHaveLength(2000)
    expect(events[1999]).toEqual({ i: 1999, text: 'line\nbreak\u2028' })
  })

  it('carries an error with its code and next step, also after events', async () => {
    const { client } = await served({ async *fail () {
      yield { fine: true }
      throw new MidspanError('E_TEST', 'it broke', { next: 'mend it' })
    } })
    await expect(collect(client.stream('fail', {}, soon()))).rejects.toMatchObject({ code: 'E_TEST', message: 'it broke', next: 'mend it' })
  })

  it('tells nothing of an error that is not meant for people', async () => {
    const { client } = await served({
      async *fail () {
        throw new Error('secret')
      }
    })
    await expect(client.request('fail', {}, soon())).rejects.toMatchObject({
      code: 'E_INTERNAL',
      message: expect.not.stringContaining('secret') as string
    })
  })

  it('refuses an operation that it does not have, and lists those it has', async () => {
    const { client } = await served({
      async *status () {
        yield {}
      }
    })
    await expect(client.request('train', {}, soon())).rejects.toMatchObject({
      code: 'E_NO_OPERATION',
      next: expect.stringContaining('status') as string
    })
    await expect(client.request('toString', {}, soon())).rejects.toMatchObject({ code: 'E_NO_OPERATION' })
  })

  it('stops an operation whose caller hangs up', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    const { client } = await served({ async *endless (_, signal) {
      yield { started: true }
      await new Promise((resolve) => { signal.addEventListener('abort', resolve) })
      resolve()
    } })
    const caller = new AbortController()
    await expect((async () => {
      for await (const _ of client.stream('endless', {}, caller.signal)) caller.abort(new Error('enough'))
    })()).rejects.toThrow('enough')
    await promise
  })

  it('is for the home\'s owner alone', async () => {
    const { server } = await served({})
    expect((await stat(server.path)).mode & 0o777).toBe(0o600)
    expect((await stat(dirname(server.path))).mode & 0o777).toBe(0o700)
  })

  it('does not stand in a directory that others may use', async () => {
    const home = homeAt(await temporaryDirectory())
    await mkdir(dirname(home.control))
    await chmod(dirname(home.control), 0o755)
    await expect(served({}, home)).rejects.toMatchObject({ code: 'E_USAGE', next: expect.stringContaining('chmod 700') as string })
  })

  it('says which file cannot be used', async () => {
    const { client } = await served({
      async *read () {
        yield { text: await readFile('/nowhere/data.jsonl') }
      }
    })
    await expect(client.request('read', {}, soon())).rejects.toMatchObject({
      code: 'E_FILE',
      message: '/nowhere/data.jsonl: no such file or directory',
      next: 'check the path'
    })
  })

  it('is found where the home\'s path is too long for a socket', async () => {
    const root = join(await temporaryDirectory(), 'long'.repeat(30))
    await mkdir(root)
    const { server, client } = await served({ async *ping () { yield { pong: true } } }, homeAt(root))
    expect(server.path.startsWith(root)).toBe(false)
    expect(await client.request('ping', {}, soon())).toEqual({ pong: true })
  })

  it('says how to start a daemon where none runs', async () => {
    const home = homeAt(await temporaryDirectory())
    await expect(new ControlClient(home).request('status', {}, soon())).rejects.toMatchObject({
      code: 'E_NO_DAEMON',
      next: expect.stringContaining(`midspan daemon --home ${home.root}`) as string
    })
  })

  it('says so when the daemon ends in the middle of an answer', async () => {
    const { server, client } = await served({ async *endless (_, signal) {
      yield { started: true }
      await new Promise((resolve) => { signal.addEventListener('abort', resolve) })
      signal.throwIfAborted()
    } })
    await expect((async () => {
      for await (const _ of client.stream('endless', {}, soon())) void server.stop()
    })()).rejects.toMatchObject({ code: 'E_STOPPED' })
  })
})
