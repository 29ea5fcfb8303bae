import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { writeRandomModel } from '../../bench/support/random-model.ts'
import { ScaleFederation } from '../../bench/support/scale/federation.ts'
import { hostsOf, roundMs, tokensPerSecond } from '../../bench/support/scale/figures.ts'
import type { Work } from '../../bench/support/scale/messages.ts'
import { outputShapes } from '../../bench/support/scale/output-shapes.ts'
import { SimulatedPeers } from '../../bench/support/scale/peers.ts'
import { instantly, SimulatedDevice } from '../../bench/support/scale/simulated-device.ts'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { Graph } from '../../src/model/graph/graph.ts'
import { add, concat } from '../../src/model/graph/operators/index.ts'
import { program } from '../../src/model/graph/program.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'

const SIZE = { hidden: 16, blocks: 4, intermediate: 32, heads: 2, kvHeads: 2, vocabulary: 4096, positions: 64 }
const ROUNDS = 3
const NEW_TOKENS = 3

async function withModel<T> (use: (directory: string, model: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'midspan-scale-'))
  try {
    const model = join(directory, 'model')
    await writeRandomModel(model, SIZE)
    return await use(directory, model)
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

describe('a simulated device', () => {
  it('gives the shapes that inputs imply, and refuses an axis of which no input says how long it is', () => {
    const graph = new Graph()
    const [a, b] = [graph.input('a', 'float32', ['rows.0', 2]), graph.input('b', 'float32', ['rows.1', 2])]
    graph.output('rows', concat([a, b], 0, 'rows'))
    const joining = program('join', graph)
    expect(outputShapes(joining, { a: [3, 2], b: [4, 2] })).toEqual({ rows: [7, 2] })
    expect(() => outputShapes(joining, {})).toThrow('no input of the program join says how long the axis rows of its output rows is')
  })

  it('has an output of any shape be like the first input of any shape', () => {
    const graph = new Graph()
    graph.output('sum', add(graph.input('x', 'float32', undefined), graph.input('y', 'float32', undefined)))
    expect(outputShapes(program('add', graph), { x: [2, 5], y: [2, 5] })).toEqual({ sum: [2, 5] })
  })

  it('takes a step of training whose parameters have the shapes of a real device', { timeout: 60_000 }, async () => {
    await withModel(async (_, path) => {
      const directory = await openModelDirectory(path)
      const trained = async (device: Device): Promise<Array<[string, readonly number[]]>> => {
        try {
          const trainer = await LocalTrainer.load(device, modelOf(directory.config), directory, {
            trainable: { r: 2, alpha: 4, dropout: 0.1, rslora: false, targets: ['q_proj', 'down_proj'], seed: '07' },
            optimizer: { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
          })
          await trainer.step([{ ids: [[3, 4, 5], [6, 7]], targets: [[4, 5, 6], [7, 8]] }], { learningRate: 1e-3, seeds: ['1'] })
          return [...await trainer.values()].map(([name, { shape }]) => [name, shape])
        } finally {
          await device.close()
        }
      }
      expect(await trained(new SimulatedDevice(instantly))).toEqual(await trained(await openDevice('cpu', { threads: 1 })))
    })
  })

  it('is as long busy as its blocks and tokens take, a backward run twice that', async () => {
    const device = new SimulatedDevice({ blockMs: 2, tokenMs: 0.5 })
    const run = async (name: string): Promise<void> => {
      const graph = new Graph()
      graph.output('output', graph.input('hidden', 'float32', ['rows', 2]))
      await (await device.compile(program(name, graph))).run({ hidden: await device.zeros('float32', [4, 2]) })
    }
    await run('block.forward')
    expect(device.busyMs).toBe(4)
    await run('block.backward')
    expect(device.busyMs).toBe(12)
    await run('embedding')
    expect(device.busyMs).toBe(12)
  })
})

describe('the figures', () => {
  const work = (times: number[][]): Work => ({ times, sentBytes: 0, receivedBytes: 0 })

  it('have rounds last from one round\'s last client to that of the next, without the first', () => {
    expect(roundMs(work([[100, 210, 300], [120, 200, 310]]))).toBe(100)
  })

  it('count tokens while everybody generates', () => {
    expect(tokensPerSecond(work([[0, 100, 200, 300, 400], [100, 200, 300]]))).toBe(20)
  })
})

describe('a simulated federation', () => {
  it('trains and generates with two servers and four clients', { timeout: 120_000 }, async () => {
    await withModel(async (directory, model) => {
      const servers: SimulatedPeers[] = []
      const federation = await ScaleFederation.start(directory, {
        model,
        workers: 2,
        clients: 4,
        workersPerProcess: 1,
        clientsPerProcess: 4,
        speed: { blockMs: 1, tokenMs: 0.01 },
        charter: { strategy: 'server-hierarchical', averageEvery: 2, ends: { mode: 'average', every: 2 } },
        host: async (settings) => {
          const peers = new SimulatedPeers(settings)
          if (settings.role === 'server') servers.push(peers)
          return await Promise.resolve(peers)
        }
      })
      try {
        const training = await federation.train(ROUNDS, { sequences: 1, maxTokens: 8 })
        expect(training.times.map(({ length }) => length)).toEqual([ROUNDS, ROUNDS, ROUNDS, ROUNDS])
        const reports = await federation.reports()
        // Two blocks forward and backward, each with the tokens of two clients, on either server.
        for (const { busyMs } of servers) expect(busyMs).toBeCloseTo(ROUNDS * 2 * 3 * (1 + 2 * 8 * 0.01), 6)
        expect(hostsOf(reports).reduce((sum, { daemons }) => sum + daemons, 0)).toBe(6)
        await federation.connected(2)
        const generation = await federation.generate([3, 4, 5], NEW_TOKENS)
        expect(generation.times.map(({ length }) => length)).toEqual([NEW_TOKENS, NEW_TOKENS, NEW_TOKENS, NEW_TOKENS])
      } finally {
        await federation.stop()
      }
    })
  })
})
