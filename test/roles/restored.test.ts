import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { startFederation, type TestFederation, type TestPeer } from './helpers.ts'

let federation: TestFederation | undefined
afterEach(async () => { await federation?.stop() })

async function start (charter: Partial<CreateOptions> = {}) {
  const root = await temporaryDirectory()
  await writeTinyModel(join(root, 'model'))
  await writeTinyData(join(root, 'data.jsonl'), 1)
  federation = await startFederation({
    model: join(root, 'model'), clients: [{}], charter: { loraTargets: ['q', 'v'], loraR: 2, learningRate: 1e-2, ...charter }
  })
  const client = federation.clients[0]!
  const train = async (rounds: number, changes: object = {}) => await client.train({ data: join(root, 'data.jsonl'), rounds, ...changes })
  return { server: federation.server, client, train, state: (peer: { home: string }) => join(homeAt(peer.home).state, 'training.safetensors') }
}

/** Cuts the newest state of a peer short, as a disk that filled up or failed. */
async function truncate (path: string): Promise<void> {
  await writeFile(path, (await readFile(path)).subarray(0, 100))
}

async function logOf ({ home }: TestPeer): Promise<string> {
  return await readFile(homeAt(home).log, 'utf8')
}

describe('a server whose newest state is damaged', () => {
  it.each([['shared', { mode: 'shared' }], ['personal', { mode: 'personal' }], ['averaged', { mode: 'average', every: 2 }]] as const)(
    'says that it fell back, and a client with %s ends goes on from there when it is told to',
    async (_, ends) => {
      const { server, train, state } = await start({ ends })
      await train(4)
      await server.stop()
      await truncate(state(server))
      await server.start()
      expect(await logOf(server)).toContain('the newest training state is damaged or missing')
      expect(server.daemon.status().training).toMatchObject({ round: 3, fellBack: true })

      await expect(train(6)).rejects.toMatchObject({ code: 'E_ROUNDS_AHEAD', next: expect.stringContaining('--rewind') as string })
      expect(server.daemon.status().training).toMatchObject({ round: 3 })
      const rounds = await train(6, { rewind: true })
      expect(rounds.map(({ round }) => round)).toEqual([3, 4, 5])
      expect(server.daemon.status().training).toMatchObject({ round: 6 })
      expect((await train(7)).map(({ round }) => round)).toEqual([6])
    },
    60_000
  )

  it('may have been restored from before the first round', async () => {
    const { server, train, state } = await start()
    await train(2)
    await server.stop()
    await writeFile(state(server), '')
    await writeFile(`${state(server)}.previous`, '')
    await expect(server.start()).rejects.toMatchObject({ code: 'E_SNAPSHOT' })
    await Promise.all([rm(state(server)), rm(`${state(server)}.previous`)])
    await server.start()
    await expect(train(3)).rejects.toMatchObject({ code: 'E_ROUNDS_AHEAD' })
    expect((await train(3, { rewind: true })).map(({ round }) => round)).toEqual([0, 1, 2])
  }, 60_000)
})

describe('a client whose newest progress is damaged', () => {
  it('says that it fell back, and takes part again', async () => {
    const { client, train, state } = await start()
    await train(3)
    await client.peer.stop()
    await truncate(state(client))
    await client.peer.start()
    expect(await logOf(client.peer)).toContain('the newest training progress is damaged or missing')
    expect(client.peer.daemon.status().training).toMatchObject({ fellBack: true })
    expect((await train(5)).at(-1)).toMatchObject({ round: 4 })
  }, 60_000)
})
