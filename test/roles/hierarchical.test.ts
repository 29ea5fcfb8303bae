import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, it } from 'vitest'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { Batches } from '../../src/model/text/batches.ts'
import { loadDataset } from '../../src/model/text/dataset.ts'
import { loadTokenizer } from '../../src/model/text/load.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import { blockOf } from '../../src/roles/training/aggregation/strategy.ts'
import { float32, type Tensor } from '../../src/tensor.ts'
import { relativeError } from '../helpers/golden.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { adapterTensors, type TestPeer } from './helpers.ts'
import { startWorkers } from './workers.ts'

const EVERY = 2
const ROUNDS = 4
const LEARNING_RATE = 1e-2
const MIDDLE = { first: 1, end: 4 }
const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0 }
const adapters = { r: 2, alpha: 4, dropout: 0, rslora: false, targets: ['q_proj', 'down_proj'], seed: '5eed' }
const work = { packing: 'padded', sequences: 3, maxTokens: 32 } as const
const root = await mkdtemp(join(tmpdir(), 'midspan-hierarchical-'))
const model = join(root, 'model')

afterAll(async () => { await rm(root, { recursive: true, force: true }) })

const isMiddle = (name: string): boolean => blockOf(name) >= MIDDLE.first && blockOf(name) < MIDDLE.end
const data = (client: number): string => join(root, `${client}.jsonl`)

/** Two machines, each with one client's data, that average the middle. Resolves with the middle after the last round. */
async function reference (): Promise<Map<string, Tensor>> {
  const device = await openDevice('cpu', { threads: 1 })
  const directory = await openModelDirectory(model)
  const tokenizer = await loadTokenizer(model)
  const machines = await Promise.all([0, 1].map(async (client) => {
    const { examples } = await loadDataset(data(client), tokenizer, { lossOn: 'completion', maxLength: work.maxTokens + 1 })
    return {
      trainer: await LocalTrainer.load(device, modelOf(directory.config), directory, { trainable: adapters, optimizer }),
      batches: new Batches(examples, { seed: '0', sequences: work.sequences, mode: 'padded', windowLength: work.maxTokens }),
      cursor: { epoch: 0, index: 0 },
      tokens: 0
    }
  }))
  let means = new Map<string, Tensor>()
  for (let round = 0; round < ROUNDS; round++) {
    for (const machine of machines) {
      const { batch, next } = machine.batches.at(machine.cursor)
      machine.cursor = next
      machine.tokens += (await machine.trainer.step([batch], { learningRate: LEARNING_RATE })).countedTokens
    }
    if ((round + 1) % EVERY !== 0) continue
    const values = await Promise.all(machines.map(async ({ trainer }) => await trainer.values()))
    const total = machines.reduce((sum, { tokens }) => sum + tokens, 0)
    means = new Map([...values[0]!].filter(([name]) => isMiddle(name)).map(([name, { shape, data: first }]) => [
      name,
      float32([...shape], Array.from(first as Float32Array, (_, i) =>
        values.reduce((sum, own, index) => sum + (own.get(name)!.data[i] as number) * machines[index]!.tokens / total, 0)))
    ]))
    for (const machine of machines) {
      await machine.trainer.parameters.restore(means)
      machine.tokens = 0
    }
  }
  for (const { trainer } of machines) trainer.free()
  await device.close()
  return means
}

it('two servers of the same blocks average what each has learnt, also when both start again in between', { timeout: 120_000 }, async () => {
  await writeTinyModel(model)
  for (const client of [0, 1]) await writeTinyData(data(client), client)
  const federation = await startWorkers({
    model,
    charter: {
      learningRate: LEARNING_RATE,
      ...optimizer,
      maxGradientNorm: null,
      minClients: 2,
      loraR: 2,
      loraAlpha: 4,
      loraTargets: ['q', 'down'],
      seed: '5eed',
      strategy: 'server-hierarchical',
      averageEvery: EVERY,
      ends: { mode: 'personal' }
    },
    clients: [{}, {}],
    identities: 'hierarchical'
  }, { founder: MIDDLE, workers: [MIDDLE] })
  try {
    const train = async (rounds: number): Promise<void> => {
      await Promise.all(federation.clients.map(async (client, index) => await client.train({ data: data(index), rounds, ...work })))
    }
    const restart = async (peer: TestPeer): Promise<void> => {
      await peer.stop()
      await peer.start()
    }
    await train(1)
    const restarting = Promise.all([federation.server, ...federation.workers].map(restart))
    await train(ROUNDS)
    await restarting
    const expected = await reference()
    const actual = adapterTensors(await federation.clients[0]!.export(federation.path('adapter')))
    for (const [name, { data: values }] of expected)
      expect(relativeError(actual.get(name)!.data as Float32Array, values as Float32Array), name).toBeLessThan(1e-4)
    await expect(federation.clients[0]!.generate({ prompt: 'a', maxTokens: 1, verify: 1 })).rejects.toMatchObject({ code: 'E_NOT_COMPARABLE' })
  } finally {
    await federation.stop()
  }
})
