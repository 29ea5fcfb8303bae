import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { readConfig } from '../../src/node/home/settings.ts'
import { TestPeer } from './helpers.ts'
import { expectAsOnOneServer, SERVER_MEMORY, startMovable, trainWithout, type MovableFederation } from './movable.ts'
import { connectedTo } from './workers.ts'

async function start (): Promise<MovableFederation & { readonly replica: TestPeer }> {
  const federation = await startMovable()
  const replica = await TestPeer.start(federation.replicaHome, ['/ip4/127.0.0.1/tcp/0'])
  onTestFinished(async () => { await replica.stop() })
  await connectedTo(federation.server, 3)
  await connectedTo(federation.client.peer, 3)
  return { ...federation, replica }
}

/** Starts a server again that stopped because it is to serve other blocks. */
async function move (replica: TestPeer): Promise<void> {
  await replica.daemon.stopped
  expect(replica.daemon.hasMoved).toBe(true)
  await replica.start()
}

it('a server moves to blocks whose only server is gone for good, and the round that waited for them ends as on one server', async () => {
  const federation = await start()
  const { server, replica } = federation
  let moved: Promise<void> | undefined
  expect(await trainWithout(federation, () => { moved = move(replica) })).toEqual([0, 1, 2, 3, 4])
  await moved
  expect(replica.daemon.status().blocks).toEqual({ first: 1, end: 4 })
  expect(await readConfig(homeAt(replica.home).config)).toMatchObject({ blocks: '1-4', memory: SERVER_MEMORY })
  const names = (await openModelDirectory(join(replica.home, 'model'))).tensorNames()
  expect(new Set(names.flatMap((name) => /layers\.(\d)\./.exec(name)?.[1] ?? []))).toEqual(new Set(['1', '2', '3']))

  const listed = await server.ask<ResultOf<'servers'>>('servers')
  expect(listed.missing).toEqual([])
  const reason = expect.stringMatching(/^moves from 1-3 to 1-4: nobody served the blocks 3-4 for \d+ s$/) as string
  expect(listed.servers.find(({ peerId }) => peerId === replica.peerId)).toMatchObject({ placement: { isDraining: false, reason } })
  expect(await readFile(homeAt(server.home).log, 'utf8')).toContain('a server is asked to serve other blocks')
  expect(await readFile(homeAt(replica.home).log, 'utf8')).toContain('moves from 1-3 to 1-4: nobody served')
  await expectAsOnOneServer(federation)
}, 120_000)

it('a text that is under way when the only server of a block is gone for good goes on token for token when another one has moved there', async () => {
  const { client, only, replica } = await start()
  const asked = { ids: [1, 5, 9, 12], maxTokens: 24, ignoreEos: true }
  const { ids } = await client.generate(asked)
  let moved: Promise<void> | undefined
  let last: { ids?: number[] } = {}
  for await (const event of client.peer.events('generate', asked)) {
    last = event
    if ((event as { type: string }).type !== 'text' || moved !== undefined) continue
    moved = move(replica)
    await only.stop()
  }
  await moved
  expect(last.ids).toEqual(ids)
}, 120_000)
