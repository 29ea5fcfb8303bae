import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { startDaemon } from '../../../src/node/daemon/daemon.ts'
import { joinFederation } from '../../../src/node/federation/join.ts'
import { readServers } from '../../../src/node/federation/membership.ts'
import { homeAt } from '../../../src/node/home/home.ts'
import { readConfig } from '../../../src/node/home/settings.ts'
import { founded, hasStories, idleRoles, inviteFrom, loopback, running, temporaryDirectory } from '../fixture.ts'

const soon = (): AbortSignal => AbortSignal.timeout(15_000)

describe.runIf(hasStories)('a second join of the same federation', () => {
  it('finds a server that has moved, and keeps the state, the identity and the settings', async () => {
    const { home: server } = await founded()
    const before = await startDaemon(server, { listen: loopback }, { roles: idleRoles })
    const client = await temporaryDirectory()
    const first = await joinFederation(client, { invite: await inviteFrom(server), inputBlocks: 2, noise: 0.6 }, soon())
    const state = join(homeAt(client).state, 'training.safetensors')
    await writeFile(state, 'what was trained')
    await before.stop()

    const after = await running(server, loopback)
    const second = await joinFederation(client, { invite: await inviteFrom(server) }, soon())
    expect(second).toMatchObject({ updated: true, peerId: first.peerId, fetchedBytes: 0, client: first.client })
    expect(await readServers(homeAt(client))).toEqual([{ peerId: after.node.peerId.toString(), addresses: after.status().addresses }])
    expect(await readFile(state, 'utf8')).toBe('what was trained')
    expect(await readConfig(homeAt(client).config)).toMatchObject({ inputBlocks: 2, outputBlocks: 1, noise: 0.6 })
  })

  it('changes the noise when asked, and refuses another partition with the way out', async () => {
    const { home: server } = await founded()
    await running(server, loopback)
    const client = await temporaryDirectory()
    await joinFederation(client, { invite: await inviteFrom(server) }, soon())
    await joinFederation(client, { invite: await inviteFrom(server), noise: 0.9 }, soon())
    expect(await readConfig(homeAt(client).config)).toMatchObject({ noise: 0.9 })
    await expect(joinFederation(client, { invite: await inviteFrom(server), inputBlocks: 3 }, soon())).rejects.toMatchObject({
      code: 'E_USAGE',
      next: expect.stringContaining('midspan partition') as string
    })
  })

  it('is refused in the home of another federation, before anything is changed', async () => {
    const [{ home: one }, { home: other }] = [await founded(), await founded({ name: 'other' })]
    await running(one, loopback)
    await running(other, loopback)
    const client = await temporaryDirectory()
    await joinFederation(client, { invite: await inviteFrom(one) }, soon())
    const servers = await readServers(homeAt(client))
    await expect(joinFederation(client, { invite: await inviteFrom(other) }, soon())).rejects.toMatchObject({ code: 'E_HOME_IN_USE' })
    expect(await readServers(homeAt(client))).toEqual(servers)
  })
})
