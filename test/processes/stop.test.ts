import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { midspan, MidspanProcess } from '../cli/process.ts'
import { Homes } from './supervised.ts'

describe('stopping', { timeout: 120_000 }, () => {
  let homes: Homes
  let server: MidspanProcess
  let client: MidspanProcess
  const home = (name: string): string => join(homes.root, name)
  const train = (): MidspanProcess =>
    new MidspanProcess([
      'train',
      '--home',
      home('client-0'),
      '--data',
      homes.data(0),
      '--rounds',
      '100000',
      '--sequences',
      '2',
      '--packing',
      'padded',
      '--json'
    ])
  const rounds = async (command: MidspanProcess): Promise<void> => {
    await command.line('{"type":"round"')
  }

  beforeAll(async () => {
    homes = await Homes.create({ clients: [{}], rounds: 1 })
    server = new MidspanProcess(['daemon', '--home', home('server'), '--threads', '1', '--listen', homes.listen])
    await server.line('Daemon is ready')
    client = new MidspanProcess(['daemon', '--home', home('client-0'), '--threads', '1'])
    await client.line('Daemon is ready')
  }, 120_000)
  afterAll(async () => {
    await Promise.all([client.stop('SIGKILL'), server.stop('SIGKILL')])
    await homes.remove()
  })

  it('ends a training with Ctrl-C and exit code 130, and the same command goes on at once', async () => {
    const command = train()
    await rounds(command)
    const { code, err } = await command.stop('SIGINT')
    expect([code, err]).toEqual([130, expect.stringMatching(/^midspan: interrupted \(run it again to resume\)\n$/)])
    const again = train()
    await rounds(again)
    const start = JSON.parse(again.out.split('\n')[0] ?? '') as { resumedFrom: number }
    expect(start.resumedFrom).toBeGreaterThan(0)
    await again.stop('SIGINT')
  })

  it('refuses a second training, and a second daemon', async () => {
    const command = train()
    await rounds(command)
    const second = await train().end()
    expect([second.code, second.err]).toEqual([4, expect.stringMatching(/training already/)])
    const daemon = await midspan(['daemon', '--home', home('client-0')])
    expect([daemon.code, daemon.err]).toEqual([2, expect.stringMatching(/is in use by the process \d+/)])
    await command.stop('SIGINT')
  })

  it('lets daemons end by themselves in the middle of a training, which says why it ended', async () => {
    const command = train()
    await rounds(command)
    const stopped = await client.stop('SIGTERM')
    expect([stopped.code, stopped.err]).toEqual([0, ''])
    expect(stopped.out).toMatch(/Stopped\n$/)
    const { code, err } = await command.end()
    expect(code).toBe(3)
    expect(err).toMatch(/^midspan: [^\n]+\n$/)
    const { code: serverCode, err: serverErr } = await server.stop('SIGTERM')
    expect([serverCode, serverErr]).toEqual([0, ''])
  })
})
