import { chmod, mkdir, readdir, readFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import type { OfferedOperations, OperationName } from '../../../src/api/operations.ts'
import { MidspanError, UsageError } from '../../../src/errors.ts'
import { ControlClient } from '../../../src/node/control/client.ts'
import { MAX_PARAMETER_BYTES } from '../../../src/node/control/messages.ts'
import { startControlServer } from '../../../src/node/control/server.ts'
import { homeAt, type Home } from '../../../src/node/home/home.ts'
import { temporaryDirectory } from '../fixture.ts'

const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
const PEER = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'
const soon = (): AbortSignal => AbortSignal.timeout(5000)

async function served (operations: OfferedOperations, home?: Home) {
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
  it('answers a request with the operation\'s result', async () => {
    const { client } = await served({ async *remove ({ peer }) { yield { removed: peer } } })
    expect(await client.request('remove', { peer: PEER }, soon())).toEqual({ removed: PEER })
  })

  it('streams the events of a long operation in order, whatever their text', async () => {
    const text = 'line\nbreak\u2028'
    const { client } = await served({
      async *generate () { for (let i = 0; i < 2000; i++) yield { type: 'text', text: `${i}${text}` } }
    })
    const events = await collect(client.stream('generate', {}, soon()))
    expect(events).toHaveLength(2000)
    expect(events[1999]).toEqual({ type: 'text', text: `1999${text}` })
  })

  it('carries an error with its code and next step, also after events', async () => {
    const { client } = await served({ async *generate () {
      yield { type: 'text', text: 'fine' }
      throw new MidspanError('E_TEST', 'it broke', { next: 'mend it' })
    } })
    await expect(collect(client.stream('generate', {}, soon()))).rejects.toMatchObject({
      code: 'E_TEST',
      message: 'it broke',
      next: 'mend it'
    })
  })

  it('tells nothing of an error that is not meant for people, but where the log is, which has its stack', async () => {
    const home = homeAt(await temporaryDirectory())
    const logged: object[] = []
    const logger = { ...quiet, error: (details: object) => { logged.push(details) } }
    const server = await startControlServer(home, { async *status () { throw new Error('secret') } }, logger)
    onTestFinished(async () => { await server.stop() })
    await expect(new ControlClient(home).request('status', {}, soon())).rejects.toMatchObject({
      code: 'E_INTERNAL',
      message: expect.not.stringContaining('secret') as string,
      next: expect.stringContaining(home.log) as string
    })
    expect(logged).toEqual([{ operation: 'status', err: expect.objectContaining({ message: 'secret' }) as Error }])
  })

  it('logs a device\'s failure, which is a defect too, and no refusal of what a user gave', async () => {
    const home = homeAt(await temporaryDirectory())
    const logged: string[] = []
    const logger = { ...quiet, error: (details: object) => { logged.push((details as { err: Error }).err.message) } }
    const server = await startControlServer(home, {
      async *status () { throw new MidspanError('E_DEVICE', 'cannot free a tensor') },
      async *peers () { throw new UsageError('no such file') }
    }, logger)
    onTestFinished(async () => { await server.stop() })
    const client = new ControlClient(home)
    await expect(client.request('status', {}, soon())).rejects.toMatchObject({ code: 'E_DEVICE' })
    await expect(client.request('peers', {}, soon())).rejects.toMatchObject({ code: 'E_USAGE' })
    expect(logged).toEqual(['cannot free a tensor'])
  })

  it('refuses an operation that it does not have, and lists those it has', async () => {
    const { client } = await served({ async *peers () { yield { peers: [] } } })
    await expect(client.request('train', { data: 'x' }, soon())).rejects.toMatchObject({
      code: 'E_NO_OPERATION',
      next: expect.stringContaining('peers') as string
    })
    await expect(client.request('toString' as OperationName, {}, soon())).rejects.toMatchObject({ code: 'E_NO_OPERATION' })
  })

  it('stops an operation whose caller hangs up', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    const { client } = await served({ async *generate (_, signal) {
      yield { type: 'text', text: 'started' }
      await new Promise((resolve) => { signal.addEventListener('abort', resolve) })
      resolve()
    } })
    const caller = new AbortController()
    await expect((async () => {
      for await (const _ of client.stream('generate', {}, caller.signal)) caller.abort(new Error('enough'))
    })()).rejects.toThrow('enough')
    await promise
  })

  it('refuses parameters before the operation runs, naming the field', async () => {
    let ran = false
    const { client } = await served({ async *train () {
      ran = true
      yield { type: 'waiting', reason: 'x' }
    } })
    const refused = async (parameters: object): Promise<unknown> =>
      await collect(client.stream('train', parameters as never, soon())).catch((error: unknown) => error)
    expect(await refused({})).toMatchObject({ code: 'E_USAGE', message: expect.stringMatching(/^train: data: /) as string })
    expect(await refused({ data: 'x', rounds: 0 })).toMatchObject({ message: expect.stringMatching(/^train: rounds: /) as string })
    expect(await refused({ data: 'x', noize: 1 })).toMatchObject({
      message: 'train: noize: is not known',
      next: 'see: midspan train --help'
    })
    expect(ran).toBe(false)
  })

  it('takes no more parameters than a prompt has', async () => {
    const { client } = await served({ async *generate () { yield { type: 'text', text: 'x' } } })
    const long = collect(client.stream('generate', { prompt: 'x'.repeat(MAX_PARAMETER_BYTES) }, soon()))
    await expect(long).rejects.toMatchObject({ code: 'E_USAGE', message: `the parameters exceed ${MAX_PARAMETER_BYTES} bytes` })
  })

  it('fills in the defaults of parameters', async () => {
    const { client } = await served({ async *leave ({ timeoutMs }) { yield { left: String(timeoutMs), told: [] } } })
    expect(await client.request('leave', {}, soon())).toEqual({ left: '120000', told: [] })
  })

  it.each<[string, object]>([
    ['of an unknown type', { type: 'news' }],
    ['with an unknown field', { type: 'text', text: 'x', more: 1 }],
    ['with a field of another type', { type: 'text', text: 1 }]
  ])('lets no event out %s', async (_, event) => {
    const { client } = await served({ async *generate () { yield event as never } })
    await expect(collect(client.stream('generate', {}, soon()))).rejects.toMatchObject({ code: 'E_INTERNAL' })
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
      async *remove () {
        yield { removed: await readFile('/nowhere/data.jsonl', 'utf8') }
      }
    })
    await expect(client.request('remove', { peer: PEER }, soon())).rejects.toMatchObject({
      code: 'E_FILE',
      message: '/nowhere/data.jsonl: no such file or directory',
      next: 'check the path'
    })
  })

  it('is found where the home\'s path is too long for a socket, whatever $TMPDIR says', async () => {
    onTestFinished(() => { vi.unstubAllEnvs() })
    const root = join(await temporaryDirectory(), 'long'.repeat(30))
    await mkdir(root)
    const elsewhere = await temporaryDirectory()
    const { client, server } = await served({ async *peers () { yield { peers: [] } } }, homeAt(root))
    vi.stubEnv('TMPDIR', elsewhere)
    expect(await client.request('peers', {}, soon())).toEqual({ peers: [] })
    await server.stop()
    await expect(client.request('peers', {}, soon())).rejects.toMatchObject({ code: 'E_NO_DAEMON' })
  })

  it('keeps no directory open for a long path once it is stopped', async () => {
    const root = join(await temporaryDirectory(), 'long'.repeat(30))
    await mkdir(root)
    const open = async (): Promise<number> => (await readdir('/proc/self/fd')).length
    const before = await open()
    const { client, server } = await served({ async *peers () { yield { peers: [] } } }, homeAt(root))
    for (let asked = 0; asked < 5; asked++) await client.request('peers', {}, soon())
    await server.stop()
    await vi.waitFor(async () => { expect(await open()).toBeLessThanOrEqual(before) })
  })

  it('offers other operations when it is told to', async () => {
    const { client, server } = await served({ async *peers () { yield { peers: [] } } })
    server.offer({ async *remove ({ peer }) { yield { removed: peer } } })
    expect(await client.request('remove', { peer: PEER }, soon())).toEqual({ removed: PEER })
    await expect(client.request('peers', {}, soon())).rejects.toMatchObject({ code: 'E_NO_OPERATION' })
  })

  it('says how to start a daemon where none runs', async () => {
    const home = homeAt(await temporaryDirectory())
    await expect(new ControlClient(home).request('status', {}, soon())).rejects.toMatchObject({
      code: 'E_NO_DAEMON',
      next: expect.stringContaining(`midspan daemon --home ${home.root}`) as string
    })
  })

  it('says so when the daemon ends in the middle of an answer', async () => {
    const { server, client } = await served({ async *generate (_, signal) {
      yield { type: 'text', text: 'started' }
      await new Promise((resolve) => { signal.addEventListener('abort', resolve) })
      signal.throwIfAborted()
    } })
    await expect((async () => {
      for await (const _ of client.stream('generate', {}, soon())) void server.stop()
    })()).rejects.toMatchObject({ code: 'E_STOPPED' })
  })
})
