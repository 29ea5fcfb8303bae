import { expect, it, onTestFinished } from 'vitest'
import { homeAt } from '../../src/node/home/home.ts'
import { readConfig } from '../../src/node/home/settings.ts'
import { MidspanProcess } from '../cli/process.ts'
import { expectAsOnOneServer, startMovable, trainWithout } from '../roles/movable.ts'
import { connectedTo } from '../roles/workers.ts'

/** Instants of a move, one for each time that the daemon is started: while weights come, and with the blocks half taken over. */
const instants = ['PartialModelStore.append:after:2', 'PartialModelStore.finish:after:1']

it('a server that is killed whenever it moves has the old blocks or the new ones, whole, and training comes to what one server does', async () => {
  const federation = await startMovable()
  const { server, client, replicaHome } = federation
  const start = (dieAt: string | undefined): MidspanProcess => {
    const environment = dieAt === undefined ? {} : { DIE_AT: dieAt, NODE_OPTIONS: `--import=${new URL('die-at.ts', import.meta.url).href}` }
    const daemon = new MidspanProcess(['daemon', '--home', replicaHome, '--threads', '1', '--listen', '/ip4/127.0.0.1/tcp/0'], environment)
    onTestFinished(async () => { await daemon.stop('SIGKILL') })
    return daemon
  }
  const blocks: unknown[] = []
  /** Starts it again each time that it dies. */
  const supervise = async (first: MidspanProcess): Promise<void> => {
    let daemon = first
    for (const next of [...instants.slice(1), undefined]) {
      expect((await daemon.end()).code).toBeNull()
      blocks.push((await readConfig(homeAt(replicaHome).config)).blocks)
      daemon = start(next)
    }
    await daemon.line('Daemon is ready')
  }
  const first = start(instants[0])
  await first.line('Daemon is ready')
  await connectedTo(server, 3)
  await connectedTo(client.peer, 3)
  const supervised = supervise(first)
  expect(await trainWithout(federation, () => {})).toEqual([0, 1, 2, 3, 4])
  await supervised
  expect([...blocks, (await readConfig(homeAt(replicaHome).config)).blocks]).toEqual(['1-3', '1-3', '1-4'])
  await expectAsOnOneServer(federation)
}, 240_000)
