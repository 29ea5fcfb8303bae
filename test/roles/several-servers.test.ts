import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice } from '../../src/model/runtime/open.ts'
import { Batches } from '../../src/model/text/batches.ts'
import { loadDataset } from '../../src/model/text/dataset.ts'
import { loadTokenizer } from '../../src/model/text/load.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import type { Tensor } from '../../src/tensor.ts'
import { relativeError } from '../helpers/golden.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { mixedPartitions } from './helpers.ts'
import { adaptersOf, TestNetwork, train, type NetworkPeer } from './server/training/network.ts'

const ROUNDS = 4
const TOLERANCE = 1e-4
const LEARNING_RATE = 1e-2
const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0 }
const adapters = { r: 2, alpha: 4, dropout: 0, rslora: false, targets: ['q_proj', 'down_proj'], seed: '5eed' }
const charter: Partial<CreateOptions> = {
  learningRate: LEARNING_RATE,
  ...optimizer,
  minClients: mixedPartitions.length,
  loraR: 2,
  loraAlpha: 4,
  loraTargets: ['q', 'down'],
  seed: '5eed'
}
const work = { packing: 'padded', sequences: 3, maxTokens: 32 } as const

type Spans = ReadonlyArray<readonly [first: number, end: number]>

describe('training over several servers', { timeout: 120_000 }, () => {
  let root: string
  let model: string
  let expected: Map<string, Tensor>
  let network: TestNetwork | undefined

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-several-'))
    model = join(root, 'model')
    await writeTinyModel(model)
    for (const client of mixedPartitions.keys()) await writeTinyData(data(client), client)
    const device = await openDevice('cpu', { threads: 1 })
    expected = await centralised(device)
    await device.close()
  })
  afterAll(async () => { await rm(root, { recursive: true, force: true }) })
  afterEach(async () => {
    await network?.stop()
    network = undefined
  })

  const data = (client: number): string => join(root, `${client}.jsonl`)

  /** The same rounds on one machine. */
  async function centralised (device: Device): Promise<Map<string, Tensor>> {
    const directory = await openModelDirectory(model)
    const tokenizer = await loadTokenizer(model)
    const trainer = await LocalTrainer.load(device, modelOf(directory.config), directory, { trainable: adapters, optimizer })
    const batches = await Promise.all(mixedPartitions.map(async (_, client) => {
      const { examples } = await loadDataset(data(client), tokenizer, { lossOn: 'completion', maxLength: work.maxTokens + 1 })
      return new Batches(examples, { seed: '0', sequences: work.sequences, mode: 'padded', windowLength: work.maxTokens })
    }))
    const cursors = batches.map(() => ({ epoch: 0, index: 0 }))
    for (let round = 0; round < ROUNDS; round++) {
      const taken = batches.map((own, client) => own.at(cursors[client]!))
      for (const [client, { next }] of taken.entries()) cursors[client] = next
      await trainer.step(taken.map(({ batch }) => batch), { learningRate: LEARNING_RATE })
    }
    const values = await trainer.values()
    trainer.free()
    return values
  }

  /** A federation whose founder and workers have these blocks; a founder with none has the workers do all. */
  async function federation (
    founder: readonly [number, number],
    workers: Spans
  ): Promise<{ workers: NetworkPeer[], clients: NetworkPeer[] }> {
    const home = await mkdtemp(join(root, 'federation-'))
    network = await TestNetwork.found(home, model, charter)
    await network.startCoordinator({ first: founder[0], end: founder[1] })
    const started: NetworkPeer[] = []
    for (const [index, [first, end]] of workers.entries()) started.push(await network.startWorker(`worker-${index}`, { first, end }))
    const clients: NetworkPeer[] = []
    for (const [index, options] of mixedPartitions.entries()) clients.push(await network.startClient(`client-${index}`, options))
    return { workers: started, clients }
  }

  async function trainAll (clients: readonly NetworkPeer[], onRound?: (round: number) => void): Promise<void> {
    await Promise.all(clients.map(async (client, index) =>
      await train(client, { data: data(index), rounds: ROUNDS, ...work }, index === 0 ? onRound : undefined)))
  }

  async function expectEqual (client: NetworkPeer): Promise<void> {
    const actual = await adaptersOf(client, await mkdtemp(join(root, 'adapter-')))
    expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort())
    for (const [name, { data: values }] of expected)
      expect(relativeError(actual.get(name)!.data as Float32Array, values as Float32Array), name).toBeLessThan(TOLERANCE)
  }

  it.each<[string, readonly [number, number], Spans]>([
    ['two in series', [1, 2], [[2, 4]]],
    ['three in series', [1, 2], [[2, 3], [3, 4]]],
    ['two replicas', [1, 4], [[1, 4]]],
    ['two in series of two replicas each', [1, 3], [[1, 3], [3, 4], [3, 4]]],
    ['a founder without blocks and two workers', [1, 1], [[1, 3], [3, 4]]]
  ])('over %s comes to the parameters of one machine', async (_, founder, workers) => {
    const { clients } = await federation(founder, workers)
    await trainAll(clients)
    await expectEqual(clients[0]!)
  })

  it('survives that a worker is cut off in the middle of a pass, and comes back', async () => {
    const { clients, workers } = await federation([1, 2], [[2, 4]])
    const [worker] = workers
    await trainAll(clients, (round) => {
      if (round !== 1) return
      setTimeout(() => {
        network!.cut('worker-0', worker!)
        setTimeout(() => { void network!.connect('worker-0', worker!) }, 300)
      }, 5)
    })
    await expectEqual(clients[0]!)
  })
})
