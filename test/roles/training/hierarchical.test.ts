import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { Optimizer } from '../../../src/model/training/optimizer.ts'
import { Parameters } from '../../../src/model/training/parameters.ts'
import { coordinatorStrategy } from '../../../src/roles/training/aggregation/factory.ts'
import { blockOf } from '../../../src/roles/training/aggregation/strategy.ts'
import { gradientName, Replicas } from '../../../src/roles/training/hierarchy/replicas.ts'
import type { TrainingPlan } from '../../../src/roles/training/plan.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { MemoryState } from './memory.ts'

const BLOCKS = 4
const MIDDLE = { first: 1, end: 3 }
const NAMES = Array.from({ length: BLOCKS }, (_, block) => `${block}.lora_A`)
const MIDDLE_NAMES = NAMES.slice(MIDDLE.first, MIDDLE.end)
const EVERY = 3
const ROUNDS = 7
const LEARNING_RATE = 0.05
const MAX_NORM = 0.8
const TOLERANCE = 1e-4
const optimizerSettings = { beta1: 0.9, beta2: 0.999, epsilon: 1e-3, weightDecay: 0.01 }
/** The coordinator is one of the servers. */
const SELF = 'w1'

const plan: TrainingPlan = {
  strategy: 'server-hierarchical',
  averageEvery: EVERY,
  ends: { mode: 'personal' },
  limits: { maxClients: 8 },
  model: { blocks: BLOCKS },
  partitions: { inputBlocks: { min: 1, max: 1 }, outputBlocks: { min: 1, max: 1 } },
  training: {
    optimizer: { learningRate: LEARNING_RATE },
    schedule: { name: 'constant', warmupRounds: 0, totalRounds: 1 },
    maxGradientNorm: MAX_NORM,
    gradientNormScope: 'party',
    gradientAccumulationSteps: 1,
    roundDeadlineMs: 1000,
    minClients: 1
  }
}

interface TestClient {
  readonly id: string
  readonly tokens: number
  /** Where the client's loss, the square of the distance, is least. */
  readonly target: readonly number[]
}

const clients: readonly TestClient[] = [
  { id: 'a', tokens: 3, target: [0.5, -2, 1, 0] },
  { id: 'b', tokens: 1, target: [-1, 3, 0.2, 4] },
  { id: 'c', tokens: 2, target: [2, 0.1, -3, 1] }
]

/** Who is there in a round, other than all. */
interface Presence {
  readonly servers?: readonly string[]
  readonly clients?: readonly string[]
  /** Servers that are given up before the round. */
  readonly givenUp?: readonly string[]
}

/** AdamW and the averages on plain numbers: what the strategy has to equal. */
class Reference {
  mean = new Map(MIDDLE_NAMES.map((name) => [name, startOf(name)]))
  readonly #servers = new Map<string, Map<string, { value: number[], m: number[], v: number[], t: number }>>()
  readonly #tokens = new Map<string, number>()

  /** Takes a round: the clients of each server that takes part. */
  step (round: number, byServer: ReadonlyMap<string, readonly TestClient[]>, remaining: readonly string[]): void {
    for (const [server, own] of byServer) {
      const copy = this.#servers.get(server) ?? new Map(MIDDLE_NAMES.map((name) => {
        const value = [...this.mean.get(name)!]
        return [name, { value, m: value.map(() => 0), v: value.map(() => 0), t: 0 }]
      }))
      this.#servers.set(server, copy)
      const tokens = own.reduce((sum, client) => sum + client.tokens, 0)
      this.#tokens.set(server, (this.#tokens.get(server) ?? 0) + tokens)
      const gradients = [...copy.values()].map(({ value }) => gradientOf(value, own).map((g) => g / tokens))
      const coefficient = Math.min(1, MAX_NORM / (Math.hypot(...gradients.flat()) + 1e-6))
      for (const [index, state] of [...copy.values()].entries()) {
        state.t++
        for (const [i, raw] of gradients[index]!.entries()) {
          const g = raw * coefficient
          const { beta1, beta2, epsilon, weightDecay } = optimizerSettings
          const m = beta1 * state.m[i]! + (1 - beta1) * g
          const v = beta2 * state.v[i]! + (1 - beta2) * g * g
          const moved = m / (1 - beta1 ** state.t) / (Math.sqrt(v / (1 - beta2 ** state.t)) + epsilon)
          state.m[i] = m
          state.v[i] = v
          state.value[i] = state.value[i]! * (1 - LEARNING_RATE * weightDecay) - LEARNING_RATE * moved
        }
      }
    }
    if ((round + 1) % EVERY !== 0) return
    const total = [...this.#tokens.values()].reduce((sum, tokens) => sum + tokens, 0)
    for (const name of MIDDLE_NAMES) {
      const mean = startOf(name).map(() => 0)
      for (const [server, tokens] of this.#tokens)
        for (const [i, value] of this.#servers.get(server)!.get(name)!.value.entries()) mean[i]! += value * tokens / total
      this.mean.set(name, mean)
      for (const copy of this.#servers.values()) copy.get(name)!.value = [...mean]
    }
    this.#tokens.clear()
    for (const server of this.#servers.keys()) if (!remaining.includes(server)) this.#servers.delete(server)
  }
}

describe('servers that each step parameters of their own', () => {
  let device: Device
  let optimizer: Optimizer
  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    optimizer = await Optimizer.open(device, optimizerSettings)
  })
  afterAll(async () => { await device.close() })

  async function open (state: MemoryState, own: TrainingPlan = plan) {
    const values = new Map<string, DeviceTensor>()
    for (const name of NAMES) values.set(name, await device.upload(float32([startOf(name).length], startOf(name))))
    const parameters = await Parameters.create(device, values)
    await parameters.restore(state.tensors)
    const replicas = new Replicas(state, EVERY)
    const shapes = NAMES.map((name) => ({ name, shape: [startOf(name).length] }))
    const strategy = coordinatorStrategy(own, { device, optimizer, parameters, shapes, state }, { replicas, self: SELF })
    return { strategy, replicas }
  }

  type Opened = Awaited<ReturnType<typeof open>>

  /** Takes a round, as the coordinator does. Resolves with the clients of each server. */
  async function takeRound (
    { strategy, replicas }: Opened,
    state: MemoryState,
    { servers = ['w1', 'w2'], clients: present = ['a', 'b', 'c'], givenUp = [] }: Presence = {}
  ): Promise<Map<string, TestClient[]>> {
    const { round } = state
    replicas.admit(servers.map((peer) => ({ peer, span: MIDDLE })))
    for (const server of givenUp) replicas.giveUp(server)
    const active = clients.filter(({ id }) => present.includes(id))
    replicas.assign(active.map(({ id }) => ({ id, ...MIDDLE })))
    const byServer = Map.groupBy(active, ({ id }) => replicas.serverOf(id, MIDDLE.first))
    const gradients = new Map<string, DeviceTensor>()
    for (const [server, own] of byServer) {
      const { names, tensors } = await strategy.committedFor!(server)
      for (const [index, name] of names.entries()) {
        if (!MIDDLE_NAMES.includes(name)) continue
        const sum = gradientOf([...tensors[index]!.data as Float32Array], own)
        gradients.set(gradientName(name, server), await device.upload(float32([sum.length], sum)))
      }
    }
    const accepted = active.map(({ id, tokens }) => ({ peer: id, span: MIDDLE, tokens, norm: 0, contribution: new Map<string, Tensor>() }))
    try {
      const step = await strategy.step(round, gradients, accepted)
      await state.commit({
        round: round + 1,
        lastTurn: undefined,
        counted: present,
        members: [],
        unaveragedTokens: step.unaveragedTokens,
        replicas: step.replicas,
        tensors: step.tensors
      })
    } catch (error) {
      await strategy.revert()
      throw error
    } finally {
      device.free(...gradients.values())
    }
    return byServer
  }

  /** Trains with these presences, one a round, and the reference beside it. */
  async function train (presences: readonly Presence[], { restarts = false, state = new MemoryState() } = {}) {
    let opened = await open(state)
    const reference = new Reference()
    const servers: string[][] = []
    for (const [round, presence] of presences.entries()) {
      if (restarts) opened = await open(state)
      const byServer = await takeRound(opened, state, presence)
      servers.push([...byServer].flatMap(([server, own]) => own.map(({ id }) => `${id} ${server}`)).sort())
      reference.step(round, byServer, opened.replicas.servers.map(({ peer }) => peer))
    }
    const { names, tensors } = await opened.strategy.committed()
    return { opened, state, reference, servers, values: new Map(names.map((name, index) => [name, tensors[index]!.data as Float32Array])) }
  }

  function expectEqual ({ values, reference }: Awaited<ReturnType<typeof train>>): void {
    for (const name of MIDDLE_NAMES) {
      const wanted = reference.mean.get(name)!
      const difference = Math.hypot(...wanted.map((value, i) => value - values.get(name)![i]!)) / Math.hypot(...wanted)
      expect(difference, name).toBeLessThan(TOLERANCE)
    }
  }

  const always = Array.from({ length: ROUNDS }, () => ({}))

  it('take over the mean by tokens every so many rounds, and keep moments of their own', async () => {
    const trained = await train(always)
    expectEqual(trained)
    expect(trained.servers[0]).toEqual(['a w1', 'b w2', 'c w1'])
    const moments = [...trained.state.tensors.keys()].filter((name) => name.endsWith('.m') && name.includes('w2'))
    expect(moments).toHaveLength(MIDDLE_NAMES.length)
  })

  it('do so when the coordinator starts again before each round', async () => {
    const [undisturbed, restarted] = [await train(always), await train(always, { restarts: true })]
    expect(restarted.values).toEqual(undisturbed.values)
    expect(restarted.servers).toEqual(undisturbed.servers)
  })

  it.each([0, 1, EVERY - 1, EVERY])('do so when the step of round %d could not be written the first time', async (failing) => {
    let tries = 0
    const state = new MemoryState(async ({ round }) => {
      if (round === failing + 1 && tries++ === 0) throw new Error('no space left')
    })
    let opened = await open(state)
    for (let round = 0; round < ROUNDS; round++) {
      if (round === failing) await expect(takeRound(opened, state)).rejects.toThrow('no space left')
      if (round === failing + 1) opened = await open(state)
      await takeRound(opened, state)
    }
    const { names, tensors } = await opened.strategy.committed()
    expect(new Map(names.map((name, index) => [name, tensors[index]!.data]))).toEqual((await train(always)).values)
  })

  it('have what one learnt in the next average that was given up, and its clients on the others', async () => {
    const without = { servers: ['w1'] }
    const presences = [{}, { ...without, givenUp: ['w2'] }, without, without, {}, {}]
    for (const restarts of [false, true]) {
      const trained = await train(presences, { restarts })
      expectEqual(trained)
      expect(trained.servers.map((own) => own[1])).toEqual(['b w2', 'b w1', 'b w1', 'b w1', 'b w1', 'b w1'])
    }
  })

  it('leave out one that comes back, or is new, until the next average', async () => {
    const presences = [{}, { givenUp: ['w2'] }, { servers: ['w1', 'w2', 'w3'] }, { servers: ['w1', 'w2', 'w3'] }, {}, {}]
    const trained = await train(presences)
    expectEqual(trained)
    expect(trained.servers.map((own) => own.join())).toEqual([
      'a w1,b w2,c w1', 'a w1,b w1,c w1', 'a w1,b w1,c w1', 'a w1,b w2,c w3', 'a w1,b w2,c w3', 'a w1,b w2,c w3'
    ])
  })

  it('have one that missed an average take it over', async () => {
    const alone = { clients: ['a'] }
    const trained = await train([{}, alone, alone, {}, {}, {}])
    expectEqual(trained)
    const early = await train([{}, alone, alone])
    const { names, tensors } = await early.opened.strategy.committedFor!('w2')
    expect(new Map(names.map((name, index) => [name, tensors[index]!.data]))).toEqual(early.values)
  })

  it('step the middle alone: shared ends are stepped with the sum of all clients', async () => {
    const state = new MemoryState()
    const { strategy } = await open(state, { ...plan, ends: { mode: 'shared' } })
    const contribution = new Map(['0.lora_A', '3.lora_A'].map((name) => [name, float32([4], [1, 2, 3, 4])]))
    const step = await strategy.step(0, new Map(), ['a', 'b'].map((peer) => ({ peer, span: MIDDLE, tokens: 2, norm: 0, contribution })))
    const { names, tensors } = step.for(MIDDLE)
    expect(names.map(blockOf)).toEqual([0, 3])
    expect([...tensors[0]!.data as Float32Array]).toEqual([2, 4, 6, 8])
    for (const name of MIDDLE_NAMES)
      expect([...step.tensors.get(name)!.data as Float32Array], name).toEqual([...float32([4], startOf(name)).data as Float32Array])
  })
})

function startOf (name: string): number[] {
  return [1, -0.5, 0.25, 2].map((value) => value + blockOf(name) / 10)
}

/** The sum over clients, and their tokens, of the gradients of half the square of the distance to each client's target. */
function gradientOf (value: readonly number[], own: readonly TestClient[]): number[] {
  return value.map((x, i) => own.reduce((sum, { tokens, target }) => sum + tokens * (x - target[i]!), 0))
}
