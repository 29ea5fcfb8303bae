import { join } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import { joinAsServer } from '../../src/node/federation/join-server.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { updateConfig } from '../../src/node/home/settings.ts'
import { relativeError } from '../helpers/golden.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { adapterTensors, startFederation, type FederationOptions, type RoundEvent, type TestClient, type TestPeer } from './helpers.ts'
import { startWorkers, type WorkersFederation } from './workers.ts'

const MOVE_AFTER_MS = 200
export const SERVER_MEMORY = 2 ** 40
const ROUNDS = 5
const training = { rounds: ROUNDS, packing: 'padded', sequences: 2, maxTokens: 32 } as const

/** A federation one of whose blocks has one server, beside a server that may move there. */
export interface MovableFederation extends WorkersFederation {
  readonly options: FederationOptions
  readonly data: string
  readonly client: TestClient
  /** The only server of block 3. */
  readonly only: TestPeer
  /** The home of a server of the blocks 1 and 2, which the founder has too. It may move, and its memory is enough for all. */
  readonly replicaHome: string
}

export async function startMovable (): Promise<MovableFederation> {
  const root = await temporaryDirectory()
  const [model, data] = [join(root, 'model'), join(root, 'data.jsonl')]
  await writeTinyModel(model)
  await writeTinyData(data, 1)
  const options = { model, clients: [{}], charter: { loraTargets: ['q' as const], loraR: 2, learningRate: 1e-2, epsilon: 1e-5, seed: '5eed' } }
  const federation = await startWorkers(options, { founder: { first: 1, end: 3 }, workers: [{ first: 3, end: 4 }] })
  onTestFinished(async () => { await federation.stop() })
  const { server, workers: [only], clients: [client] } = federation
  await server.stop()
  await updateConfig(homeAt(server.home), { moveAfterMs: MOVE_AFTER_MS })
  await server.start()
  const { invite } = await server.ask<ResultOf<'invite'>>('invite', { role: 'server', expiresMs: 60_000, uses: 1 })
  const replicaHome = federation.path('replica')
  await joinAsServer(replicaHome, { invite, blocks: { first: 1, end: 3 } }, AbortSignal.timeout(30_000))
  await updateConfig(homeAt(replicaHome), { memory: SERVER_MEMORY })
  return { ...federation, options, data, client: client!, only: only!, replicaHome }
}

/** Trains while the only server of block 3 stops for good after the second round. Resolves with the rounds. */
export async function trainWithout ({ client, only, data }: MovableFederation, gone: () => void): Promise<number[]> {
  const rounds: number[] = []
  for await (const event of client.peer.events('train', { data, ...training })) {
    const { type, round } = event as RoundEvent
    if (type !== 'round') continue
    rounds.push(round)
    if (round !== 1) continue
    gone()
    await only.stop()
  }
  return rounds
}

/** Checks that the client's adapters are those that the same rounds come to on one server. */
export async function expectAsOnOneServer (federation: MovableFederation): Promise<void> {
  const { options, data, client } = federation
  const alone = await startFederation(options)
  onTestFinished(async () => { await alone.stop() })
  await alone.clients[0]!.train({ data, ...training })
  const [after, still] = [await client.export(federation.path('moved')), await alone.clients[0]!.export(federation.path('still'))].map(adapterTensors)
  for (const [name, { data: values }] of still!)
    expect(relativeError(after!.get(name)!.data as Float32Array, values as Float32Array), name).toBeLessThan(1e-4)
}
