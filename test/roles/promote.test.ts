import { join } from 'node:path'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { expect, it, onTestFinished } from 'vitest'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { readSnapshot } from '../../src/model/checkpoint/snapshot.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { Batches } from '../../src/model/text/batches.ts'
import { loadDataset } from '../../src/model/text/dataset.ts'
import { loadTokenizer } from '../../src/model/text/load.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import { readMembership } from '../../src/node/federation/membership.ts'
import { homeAt, replaceFile } from '../../src/node/home/home.ts'
import { createMidspanNode } from '../../src/node/network/libp2p.ts'
import { promote } from '../../src/node/succession/promote.ts'
import { protocolId } from '../../src/protocols/charter/index.ts'
import { createLead, createMandate, sayHello } from '../../src/protocols/hello/index.ts'
import { STAGE_PROTOCOL } from '../../src/protocols/stage/constants.ts'
import { CoordinatorMessageSchema, WorkerMessageSchema } from '../../src/protocols/stage/messages.ts'
import { openChannel } from '../../src/protocols/wire/channel.ts'
import { shapesOf } from '../../src/roles/charter-settings.ts'
import { stageLimits } from '../../src/roles/message-limits.ts'
import type { Span } from '../../src/span.ts'
import type { Tensor } from '../../src/tensor.ts'
import { relativeError } from '../helpers/golden.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { adapterTensors, type TestPeer } from './helpers.ts'
import { startWorkers, type WorkersFederation } from './workers.ts'

const MIDDLE = { first: 1, end: 4 }
const LEARNING_RATE = 1e-2
/** Daemons on a busy machine take their time. */
const POLL = { timeout: 20_000 }
const work = { packing: 'padded', sequences: 3, maxTokens: 32 } as const

interface Started extends WorkersFederation {
  readonly data: string
  readonly model: string
}

async function start (name: string, workers: readonly Span[]): Promise<Started> {
  const root = await temporaryDirectory()
  const [model, data] = [join(root, 'model'), join(root, 'data.jsonl')]
  await writeTinyModel(model)
  await writeTinyData(data, 1)
  const federation = await startWorkers({
    model,
    clients: [{}],
    identities: name,
    charter: { loraTargets: ['q'], loraR: 2, loraAlpha: 16, learningRate: LEARNING_RATE, epsilon: 1e-5, maxGradientNorm: null, seed: '5eed' }
  }, { founder: MIDDLE, workers })
  onTestFinished(async () => { await federation.stop() })
  return { ...federation, data, model }
}

/** The same rounds on one machine. */
async function oneMachine ({ model, data }: Started, rounds: number): Promise<Map<string, Tensor>> {
  const device = await openDevice('cpu', { threads: 1 })
  const directory = await openModelDirectory(model)
  const { examples } = await loadDataset(data, await loadTokenizer(model), { lossOn: 'completion', maxLength: work.maxTokens + 1 })
  const trainable = { r: 2, alpha: 16, dropout: 0, rslora: false, targets: ['q_proj'], seed: '5eed' }
  const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0 }
  const trainer = await LocalTrainer.load(device, modelOf(directory.config), directory, { trainable, optimizer })
  const batches = new Batches(examples, { seed: '0', sequences: work.sequences, mode: 'padded', windowLength: work.maxTokens })
  let cursor = { epoch: 0, index: 0 }
  for (let round = 0; round < rounds; round++) {
    const { batch, next } = batches.at(cursor)
    cursor = next
    await trainer.step([batch], { learningRate: LEARNING_RATE, maxGradientNorm: null })
  }
  const values = await trainer.values()
  trainer.free()
  await device.close()
  return values
}

const standbyRound = async ({ home }: TestPeer): Promise<unknown> =>
  (await readSnapshot(join(homeAt(home).state, 'standby.safetensors')))?.meta['round']

/** Starts a daemon again that stopped because another server leads. */
async function follow (peer: TestPeer, leader: TestPeer): Promise<void> {
  await peer.daemon.stopped
  expect(peer.daemon.isSuperseded).toBe(true)
  await peer.start()
  expect(peer.daemon.status().coordinator).toBe(leader.peerId)
}

it('a server with a mandate leads in the place of a founder that is gone, from the last step; the founder follows when it is back', async () => {
  const federation = await start('promote', [MIDDLE, { first: 2, end: 4 }])
  const { server: founder, workers: [successor, other], clients: [client], data } = federation
  await expect(promote(successor!.home)).rejects.toMatchObject({ code: 'E_HOME_LOCKED' })
  await founder.ask('entrust', { peer: successor!.peerId, expiresMs: 3_600_000 })
  await client!.train({ data, rounds: 2, ...work })
  await expect.poll(async () => await standbyRound(successor!), POLL).toBe(2)

  await founder.stop()
  await successor!.stop()
  expect(await promote(successor!.home)).toEqual({ peerId: successor!.peerId, term: 1, round: 2 })
  await expect(promote(successor!.home)).rejects.toThrow('this server leads already, in term 1')
  await successor!.start()
  expect(successor!.daemon.status()).toMatchObject({ coordinator: successor!.peerId, training: { round: 2 } })
  await Promise.all([client!.peer, other!].map(async (peer) => { await follow(peer, successor!) }))
  expect((await client!.train({ data, rounds: 4, ...work })).map(({ round }) => round)).toEqual([2, 3])

  await founder.start()
  await follow(founder, successor!)
  await expect(founder.ask('invite', { role: 'client', expiresMs: 1000, uses: 1 })).rejects.toThrow()
  await expect(successor!.ask('entrust', { peer: other!.peerId, expiresMs: 1000 })).rejects.toThrow('only the founder\'s key')
  expect((await client!.train({ data, rounds: 6, ...work })).map(({ round }) => round)).toEqual([4, 5])
  const adapter = adapterTensors(await client!.export(federation.path('adapter')))

  // The founder needs no mandate to take the lead back.
  await expect.poll(async () => await standbyRound(founder), POLL).toBe(6)
  await founder.stop()
  expect(await promote(founder.home)).toEqual({ peerId: founder.peerId, term: 2, round: 6 })
  for (const [tensor, { data: values }] of await oneMachine(federation, 6))
    expect(relativeError(adapter.get(tensor)!.data as Float32Array, values as Float32Array), tensor).toBeLessThan(1e-4)
}, 120_000)

it('a server without a mandate, or without a copy of the state, does not lead, and is told what to do', async () => {
  const federation = await start('promote-refused', [MIDDLE])
  const { server: founder, workers: [worker], clients: [client] } = federation
  await worker!.stop()
  await expect(promote(worker!.home)).rejects.toMatchObject({ code: 'E_NO_MANDATE', next: expect.stringContaining('midspan entrust') as string })
  await client!.peer.stop()
  await expect(promote(client!.home)).rejects.toThrow('a client cannot lead')
  await founder.stop()
  await expect(promote(founder.home)).rejects.toThrow('this server leads already, in term 0')
}, 60_000)

it('a worker that follows a newer term refuses the coordinator of an older one, which has not heard of it', async () => {
  const { server: founder, workers: [worker] } = await start('promote-older', [MIDDLE])
  const { key, signed: { id, hash, charter } } = await readMembership(homeAt(founder.home))
  await founder.stop()
  await worker!.stop()
  const successor = await generateKeyPair('Ed25519')
  const peer = peerIdFromPrivateKey(successor).toString()
  const { bytes: mandate } = await createMandate({ federation: id, peer, expiresAtMs: Date.now() + 3_600_000 }, key)
  const { bytes: lead } = await createLead({ federation: id, term: 1, mandate, addresses: [] }, successor)
  await replaceFile(homeAt(worker!.home).lead, lead!)
  await worker!.start()

  const node = await createMidspanNode({ privateKey: key, role: 'server', listen: [] })
  onTestFinished(async () => { await node.stop() })
  await node.start()
  const signal = AbortSignal.timeout(20_000)
  const address = multiaddr(worker!.daemon.status().addresses[0])
  const hello = await node.dialProtocol(address, protocolId('hello'), { signal })
  await sayHello(hello, { agent: 'test', role: 'server', federation: hash }, signal)
  const channel = await openChannel(await node.dialProtocol(address, STAGE_PROTOCOL, { signal }), {
    protocol: STAGE_PROTOCOL,
    outgoing: CoordinatorMessageSchema,
    incoming: WorkerMessageSchema,
    limits: stageLimits(charter, shapesOf(charter, [{ first: 0, end: charter.model.blocks }])),
    identity: key,
    remotePeer: worker!.daemon.node.peerId,
    charter: hash
  }, signal)
  await expect(channel.receive(signal)).rejects.toMatchObject({ code: 'E_NOT_COORDINATOR' })
}, 60_000)
