import { writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { fromClient } from '../../src/protocols/train/messages.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { Attacker } from './attacker.ts'
import { startFederation, type TestFederation } from './helpers.ts'

const MODEL = 'stories260K-hf'
const TIMEOUT_MS = 60_000

describe.skipIf(!hasData(MODEL))('a member that is removed from the federation', { timeout: TIMEOUT_MS }, () => {
  let federation: TestFederation
  beforeAll(async () => {
    // Nobody waits for the deadline: the test would run into its own limit.
    federation = await startFederation({
      model: dataPath(MODEL), clients: [{}], charter: { minClients: 2, roundDeadline: 10 * TIMEOUT_MS, maxTokensPerClient: 128 }
    })
    await writeFile(federation.path('text.txt'), 'A client counted stars over the sea.\n\nIt counted them again.')
  }, TIMEOUT_MS)
  afterAll(async () => { await federation.stop() })

  it('is not waited for by the round in progress', async () => {
    const silent = await Attacker.join(federation, 'silent')
    const channel = await silent.training()
    await channel.send(fromClient({ case: 'enlist', value: { middle: { first: 1, end: 4 }, round: 0 } }))
    const training = federation.clients[0]!.train({ data: federation.path('text.txt'), rounds: 1, maxTokens: 24, sequences: 2 })
    const peer = silent.context.peerId.toString()
    await vi.waitFor(() => {
      expect(federation.server.daemon.status().training).toMatchObject({ waitingFor: [peer] })
    }, { timeout: 20_000 })
    await federation.server.ask('remove', { peer })
    expect(await training).toEqual([expect.objectContaining({ round: 0, leftOut: false })])
  })
})
