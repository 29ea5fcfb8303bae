import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { outlivesTerminal } from '../../src/cli/signals.ts'
import { startControlServer, type ControlServer } from '../../src/node/control/server.ts'
import { createFederation } from '../../src/node/federation/create.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { foundDefaults } from '../helpers/founding.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { midspan, MidspanProcess } from './process.ts'

const silent = { debug () {}, info () {}, warn () {}, error () {} }
const root = fileURLToPath(new URL('../../', import.meta.url))
const node = fileURLToPath(new URL('../../node_modules/.bin/node', import.meta.url))

describe('commands that are told to stop', { timeout: 60_000 }, () => {
  let home: string
  let server: ControlServer

  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'midspan-signals-'))
    server = await startControlServer(homeAt(home), {
      async *train (_, signal) {
        yield { type: 'start', round: 0, done: 0, rounds: 1, records: 1, recordsRead: 1, skipped: 0, skippedLines: [], noticed: 0, notices: [] }
        for (;;) {
          yield { type: 'waiting', reason: 'nobody is here' }
          await Promise.race([once(signal, 'abort'), new Promise((resolve) => setTimeout(resolve, 20))])
          signal.throwIfAborted()
        }
      },
      async *peers () { yield { peers: [] } }
    }, silent)
  })

  afterAll(async () => {
    await server.stop()
    await rm(home, { recursive: true })
  })

  it.each([
    ['SIGINT', 130, 'midspan: interrupted (run it again to resume)\n'],
    ['SIGTERM', 143, 'midspan: told to end (SIGTERM) (run it again to resume)\n']
  ] as const)('say so on %s, and end with its own code', async (signal, code, err) => {
    const training = new MidspanProcess(['train', '--home', home, '--data', 'x', '--json'])
    await training.line('{"type":"start"')
    expect(await training.stop(signal)).toMatchObject({ code, err })
  })

  it('stop where nobody reads a result that is still to come', async () => {
    const child = spawn(node, ['bin/midspan.js', 'train', '--home', home, '--data', 'x', '--json'], {
      cwd: root,
      stdio: ['ignore', 'pipe', 'pipe']
    })
    let err = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => { err += text })
    await once(child.stdout, 'data')
    child.stdout.destroy()
    const [code] = await once(child, 'close') as [number]
    expect([code, err]).toEqual([128 + constants.signals.SIGPIPE, 'midspan: the reader of the output went away (run it again to resume)\n'])
  })
})

describe('a daemon', { timeout: 120_000 }, () => {
  let home: string

  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'midspan-signals-'))
    const model = join(home, 'model')
    await writeTinyModel(model)
    await createFederation(join(home, 's'), { ...foundDefaults, model, name: 'tiny' }, AbortSignal.timeout(60_000))
  }, 60_000)

  afterAll(async () => { await rm(home, { recursive: true }) })

  const args = (): string[] =>
    ['bin/midspan.js', 'daemon', '--home', join(home, 's'), '--threads', '1', '--device', 'cpu', '--listen', '/ip4/127.0.0.1/tcp/0']
  const running = async (): Promise<boolean> => (await midspan(['status', '--home', join(home, 's'), '--json'])).code === 0
  const started = async (): Promise<void> => {
    while (!await running()) await new Promise((resolve) => setTimeout(resolve, 50))
  }

  it('goes on where the reader of its output is gone, and stops cleanly', async () => {
    const child = spawn(node, args(), { cwd: root, stdio: ['ignore', 'pipe', 'ignore'] })
    onTestFinished(() => { child.kill('SIGKILL') })
    child.stdout.destroy()
    await started()
    expect([child.exitCode, await running()]).toEqual([null, true])
    child.kill('SIGTERM')
    expect(await once(child, 'close')).toEqual([0, null])
  })

  it('outlives its terminal under nohup', async () => {
    const child = spawn('nohup', [node, ...args()], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
    onTestFinished(() => { child.kill('SIGKILL') })
    await started()
    child.kill('SIGHUP')
    expect(await running()).toBe(true)
    child.kill('SIGTERM')
    expect(await once(child, 'close')).toEqual([0, null])
  })
})

describe('a terminal that closes', () => {
  it('ends what has it as input, output or error output, and nothing else', () => {
    expect(outlivesTerminal([{}, {}, { isTTY: true }])).toBe(false)
    expect(outlivesTerminal([{}, { isTTY: false }, {}])).toBe(true)
  })
})
