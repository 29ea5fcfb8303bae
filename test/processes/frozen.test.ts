import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ControlClient } from '../../src/node/control/client.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { midspan, MidspanProcess, withoutProgress } from '../cli/process.ts'
import { Homes } from './supervised.ts'

/** A server whose process is stopped (SIGSTOP) keeps its connections and answers nothing, as one behind a network that lost it does. */
describe('a server that answers nothing', { timeout: 120_000 }, () => {
  let homes: Homes
  let server: MidspanProcess
  let client: MidspanProcess
  let address: string
  const home = (): string => join(homes.root, 'client-0')

  beforeAll(async () => {
    homes = await Homes.create({ clients: [{}], rounds: 1 })
    server = new MidspanProcess(['daemon', '--home', join(homes.root, 'server'), '--threads', '1', '--listen', homes.listen])
    await server.line('Daemon is ready')
    address = await server.line('Listening on ')
    client = new MidspanProcess(['daemon', '--home', home(), '--threads', '1'])
    await client.line('Daemon is ready')
  }, 120_000)
  // A connection that is silent for long is dead, and then nobody asks the server: each test has one that was alive before.
  beforeEach(async () => {
    server.kill('SIGCONT')
    while (!(await new ControlClient(homeAt(home())).request('status', {}, AbortSignal.timeout(60_000))).connected) await delay(20)
    server.kill('SIGSTOP')
  }, 120_000)
  afterAll(async () => {
    await Promise.all([client.stop('SIGKILL'), server.stop('SIGKILL')])
    await homes.remove()
  })

  it.each([
    ['generate', '--prompt', 'the'],
    ['evaluate', '--data', 'DATA'],
    ['export', '--out', 'out']
  ])('is given up on by %s, by the timeout', async (name, option, value) => {
    const command = [name, option, value === 'DATA' ? homes.data(0) : value]
    const { code, out, err } = await midspan([...command, '--home', home(), '--timeout', '1s'])
    // A busy machine may say before what it waits for.
    expect(withoutProgress(err)).toMatch(/^midspan: gave up after 1 s: [^\n]+\([^\n]+--timeout[^\n]+\)\n$/)
    expect([code, out]).toEqual([5, ''])
  })

  it('is given up on by join, by the timeout', async () => {
    const { code, out, err } = await midspan(['join', address, '--home', join(homes.root, 'new'), '--timeout', '1s'])
    expect(withoutProgress(err)).toMatch(/^midspan: gave up after 1 s [^\n]+\([^\n]+--timeout[^\n]+\)\n$/)
    expect([code, out]).toEqual([5, ''])
  })

  it('is shown without a round trip by peers', async () => {
    const { out } = await midspan(['peers', '--home', home(), '--json'])
    expect((JSON.parse(out) as { peers: object[] }).peers).toMatchObject([{ role: 'server', roundTripMs: null }])
  })

  it('is named while training waits on', async () => {
    const training = new MidspanProcess(['train', '--home', home(), '--data', homes.data(0), '--rounds', '2', '--json'])
    await training.line('{"type":"waiting"')
    expect((await training.stop('SIGINT')).code).toBe(130)
  })

  it('does not keep a client from leaving', async () => {
    const { code, err } = await midspan(['leave', '--home', home(), '--timeout', '1s'])
    expect([code, err]).toEqual([0, 'No server could be told: its operator can go on counting this peer as a member\n'])
    expect((await client.end()).code).toBe(0)
  })
})
