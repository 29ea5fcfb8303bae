import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { fromClient, type GenerateClientChannel } from '../../src/protocols/generate/messages.ts'
import { MAX_CHAIN_SERVERS, MAX_HANDOVER_STREAMS } from '../../src/protocols/handover/constants.ts'
import { fromGiver, type HandoverGiverChannel } from '../../src/protocols/handover/messages.ts'
import { float32 } from '../../src/tensor.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { Attacker, refusalOf } from './attacker.ts'
import { startFederation, type TestClient, type TestFederation, type TestPeer } from './helpers.ts'
import { disturbed, generated, sampling } from './routes.ts'
import { connectedTo, startWorkers, type WorkersFederation } from './workers.ts'

const MODEL = 'stories260K-hf'
const TOKENS = 40
const LONG_TOKENS = 100
const KILLED_AFTER = 20

const sequencesOf = ({ daemon }: TestPeer): number => daemon.status().generation?.sequences ?? 0

describe.skipIf(!hasData(MODEL))('servers that hand over to one another', { timeout: 120_000 }, () => {
  const sample = hasData(MODEL) ? JSON.parse(readFileSync(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[] : []
  const greedy = sample.slice(1, TOKENS + 1)

  let federation: WorkersFederation
  let client: TestClient
  beforeAll(async () => {
    federation = await startWorkers({ model: dataPath(MODEL), clients: [{}] }, {
      founder: { first: 1, end: 2 },
      workers: [{ first: 2, end: 3 }, { first: 2, end: 3 }, { first: 3, end: 4 }]
    })
    client = federation.clients[0]!
  }, 120_000)
  afterAll(async () => { await federation.stop() })

  it('go on token for token, sampled, when the one in the middle is killed', async () => {
    const undisturbed = await generated(client, sampling)
    let killed: TestPeer | undefined
    const { result: { ids, route } } = await disturbed(client, sampling, KILLED_AFTER, async () => {
      killed = federation.workers.slice(0, 2).find((worker) => sequencesOf(worker) > 0)
      await killed?.stop()
    })
    expect(killed).toBeDefined()
    expect(ids).toEqual(undisturbed.ids)
    const other = route.find(({ server, blocks }) => blocks.first === 2 && server !== killed!.peerId)
    expect(other!.replayedTokens).toBeGreaterThanOrEqual(KILLED_AFTER)
    await killed!.start()
    await connectedTo(client.peer, 4)
  })

  it('go on token for token without one that is removed from the federation, and never hand over to it again', async () => {
    let removed: TestPeer | undefined
    const { result: { ids, route } } = await disturbed(client, { maxTokens: LONG_TOKENS }, 5, async () => {
      removed = federation.workers.slice(0, 2).find((worker) => sequencesOf(worker) > 0)
      await federation.server.ask('remove', { peer: removed!.peerId })
    })
    expect(ids).toEqual(sample.slice(1, LONG_TOKENS + 1))
    expect(route.filter(({ blocks, replayedTokens }) => blocks.first === 2 && replayedTokens > 0)).not.toEqual([])
    await vi.waitFor(() => {
      for (const { daemon } of [federation.server, federation.workers[2]!])
        expect(daemon.node.getPeers().map(String)).not.toContain(removed!.peerId)
    }, { timeout: 10_000 })
    const after = await generated(client)
    expect(after.ids).toEqual(greedy)
    expect(after.route.map(({ server }) => server)).not.toContain(removed!.peerId)
  })
})

describe('a client that lies about handing over', { timeout: 60_000 }, () => {
  const secret = new Uint8Array(32).fill(5)
  let directory: string
  let federation: TestFederation
  let attacker: Attacker
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'midspan-handover-'))
    await writeTinyModel(directory)
    federation = await startFederation({ model: directory, clients: [] })
    attacker = await Attacker.join(federation, 'attacker')
  }, 60_000)
  afterAll(async () => {
    await federation.stop()
    await rm(directory, { recursive: true, force: true })
  })

  async function begun (neighbours: object): Promise<GenerateClientChannel> {
    const channel = await attacker.generation()
    onTestFinished(async () => { await channel.close() })
    await channel.send(fromClient({ case: 'begin', value: { first: 1, end: 2, capacity: 4, ...neighbours } }))
    return channel
  }

  async function claimed (wanted: Uint8Array): Promise<HandoverGiverChannel> {
    const channel = await attacker.handover()
    onTestFinished(async () => { await channel.close() })
    await channel.send(fromGiver({ case: 'claim', value: { secret: wanted } }))
    return channel
  }

  const self = (): string => attacker.context.peerId.toString()

  it('is refused a server that hands over to itself', async () => {
    for (const side of ['to', 'from'])
      expect(await refusalOf(await begun({ [side]: { peer: federation.server.peerId, secret } }))).toBe('E_BAD_MESSAGE')
  })

  it('is refused a next server that is not in the directory, such as a client', async () => {
    for (const peer of [self(), 'nobody', '']) expect(await refusalOf(await begun({ to: { peer, secret } }))).toBe('E_HANDOVER_NEXT')
  })

  it('is refused a secret of another length', async () => {
    expect(await refusalOf(await begun({ from: { peer: self(), secret: new Uint8Array(8) } }))).toBe('E_BAD_MESSAGE')
  })

  it('can claim a session only with its secret, once, and as the peer that was named', async () => {
    const named = await begun({ from: { peer: self(), secret } })
    expect((await named.receive()).message.kind).toMatchObject({ case: 'ready', value: { handsOver: true } })
    expect(await refusalOf(await claimed(new Uint8Array(32)))).toBe('E_HANDOVER_CLAIM')
    expect((await (await claimed(secret)).receive()).message.kind.case).toBe('claimed')
    expect(await refusalOf(await claimed(secret))).toBe('E_HANDOVER_CLAIM')
    const other = new Uint8Array(32).fill(6)
    await (await begun({ from: { peer: 'another server', secret: other } })).receive()
    expect(await refusalOf(await claimed(other))).toBe('E_HANDOVER_CLAIM')
  })

  it('cannot send hidden states that were to come from a server', async () => {
    const channel = await begun({ from: { peer: self(), secret } })
    await channel.receive()
    await channel.send(fromClient({ case: 'rows', value: { position: 0, count: 1 } }), [float32([1, 16], new Float32Array(16))])
    expect(await refusalOf(channel)).toBe('E_BAD_MESSAGE')
  })

  it('has so many streams at once, and no more', async () => {
    const channels = await Promise.all(Array.from({ length: MAX_HANDOVER_STREAMS }, async () => await attacker.handover()))
    await expect(attacker.handover()).rejects.toThrow()
    for (const channel of channels) channel.abort(new Error('enough'))
  })

  it('hears which side was at fault when a server hands over what does not fit, or breaks off', async () => {
    for (const breaks of [
      async (giver: HandoverGiverChannel) => { await giver.send(fromGiver({ case: 'rows', value: { position: 3, count: 1 } })) },
      async (giver: HandoverGiverChannel) => { await giver.send(fromGiver({ case: 'claim', value: { secret } })) },
      async (giver: HandoverGiverChannel) => {
        const stageUs = new Array<number>(MAX_CHAIN_SERVERS).fill(1)
        await giver.send(fromGiver({ case: 'rows', value: { position: 0, count: 1, stageUs } }), [float32([1, 16], new Float32Array(16))])
      },
      async (giver: HandoverGiverChannel) => { await Promise.resolve(giver.abort(new Error('gone'))) },
      async (giver: HandoverGiverChannel) => { await giver.close() }
    ]) {
      const channel = await begun({ from: { peer: self(), secret } })
      await channel.receive()
      const giver = await claimed(secret)
      await giver.receive()
      await breaks(giver)
      expect(await refusalOf(channel)).toBe('E_HANDOVER_PREVIOUS')
    }
  })
})
