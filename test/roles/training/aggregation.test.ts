import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { GradientSum } from '../../../src/model/layers/gradient-sum.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { Optimizer } from '../../../src/model/training/optimizer.ts'
import { Parameters } from '../../../src/model/training/parameters.ts'
import { aggregationOf } from '../../../src/roles/training/aggregation/factory.ts'
import type { FederatedAdapters } from '../../../src/roles/training/aggregation/federated-adapters.ts'
import type { ClientAdapters } from '../../../src/roles/training/aggregation/strategy.ts'
import type { TrainingPlan } from '../../../src/roles/training/plan.ts'
import type { AcceptedUpdate } from '../../../src/roles/training/update.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { MemoryState } from './memory.ts'

const SIZE = 4
const PARTS = 3
const BLOCKS = 4
const LEARNING_RATE = 0.1
const MIDDLE = { first: 1, end: 3 }
const NAMES = Array.from({ length: BLOCKS }, (_, block) => `${block}.lora_A`)

const modes = {
  shared: { mode: 'shared' },
  average: { mode: 'average', every: 2 },
  personal: { mode: 'personal' }
} as const

function planOf (mode: keyof typeof modes, scope: 'party' | 'global' = 'party', maxGradientNorm: number | null = null): TrainingPlan {
  return {
    strategy: 'client-batch',
    ends: modes[mode],
    limits: { maxClients: 8 },
    model: { blocks: BLOCKS },
    partitions: { inputBlocks: { max: 2 }, outputBlocks: { max: 1 } },
    training: {
      optimizer: { learningRate: LEARNING_RATE },
      schedule: { name: 'constant', warmupRounds: 0, totalRounds: 1 },
      maxGradientNorm,
      gradientNormScope: scope,
      gradientAccumulationSteps: 1,
      roundDeadlineMs: 1000,
      minClients: 1
    }
  }
}

const filled = (value: number): Tensor => float32([SIZE], new Float32Array(SIZE).fill(value))
const valueOf = (tensor: Tensor | undefined): number => (tensor?.data[0] as number | undefined) ?? Number.NaN

describe('aggregation strategies', () => {
  let device: Device
  let optimizer: Optimizer
  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    // The first step of AdamW without moments' bias and with a great epsilon is proportional to the gradient.
    optimizer = await Optimizer.open(device, { beta1: 0, beta2: 0, epsilon: 1e3, weightDecay: 0 })
  })
  afterAll(async () => { await device.close() })

  const upload = async (values: Readonly<Record<string, number>>): Promise<Map<string, DeviceTensor>> =>
    new Map(await Promise.all(Object.entries(values).map(async ([name, value]) => [name, await device.upload(filled(value))] as const)))

  const gradients = async (value: number): Promise<Map<string, DeviceTensor>> => await upload({ '0.lora_A': value })

  /** A server's strategy whose adapters are all 1. */
  async function server (plan: TrainingPlan) {
    const parameters = await Parameters.create(device, await upload(Object.fromEntries(NAMES.map((name) => [name, 1]))))
    const state = new MemoryState()
    const shapes = NAMES.map((name) => ({ name, shape: [SIZE] }))
    const strategy: FederatedAdapters = aggregationOf(plan).server({ device, optimizer, parameters, shapes, state })
    return { strategy, parameters, state }
  }

  const update = (peer: string, tokens: number, contribution: Readonly<Record<string, number>> = {}, span = MIDDLE): AcceptedUpdate =>
    ({ peer, span, tokens, norm: 0, contribution: new Map(Object.entries(contribution).map(([name, value]) => [name, filled(value)])) })

  /** How far a step moves a parameter whose mean gradient is this. */
  const stepOf = (mean: number): number => LEARNING_RATE * mean / (Math.abs(mean) + 1e3)

  describe('gradients of a round', () => {
    it('have a sum to step with when each has its share of it at most', async () => {
      const { strategy } = await server(planOf('shared'))
      const sum = new GradientSum(device)
      for (let part = 0; part < PARTS; part++) {
        const share = await gradients(0.99e18 / PARTS / Math.sqrt(SIZE))
        expect(await strategy.isSummable(share, PARTS)).toBe(true)
        expect(await strategy.isSummable(share, PARTS + 1)).toBe(false)
        await sum.add(share)
      }
      expect(await optimizer.norm(sum.gradients.values())).toBeCloseTo(0.99e18, -14)
    })

    it.each([NaN, Infinity, -Infinity, 3e38, 1e19])('have none with %d in one of them', async (value) => {
      const { strategy } = await server(planOf('shared'))
      expect(await strategy.isSummable(await gradients(value), 1)).toBe(false)
    })
  })

  it.each([
    ['shared', NAMES.filter((name) => !/^[12]/.test(name)), NAMES.filter((name) => !/^[12]/.test(name))],
    ['average', [], NAMES.filter((name) => !/^[12]/.test(name))],
    ['personal', [], []]
  ] as const)('%s expects of a client what it has to add', async (mode, first, second) => {
    const { strategy } = await server(planOf(mode))
    expect([0, 1].map((round) => strategy.expectedFrom(MIDDLE, round).map(({ name }) => name))).toEqual([first, second])
  })

  it('shared ends sum the gradients of all holders and tell clients the sums of their blocks', async () => {
    const { strategy, parameters } = await server(planOf('shared'))
    const step = await strategy.step(0, await upload({ '1.lora_A': 6, '2.lora_A': 8 }), [
      update('a', 3, { '0.lora_A': 2, '3.lora_A': 4 }),
      update('b', 1, { '0.lora_A': 6, '1.lora_A': 2, '3.lora_A': 4 }, { first: 2, end: 3 })
    ])
    expect(step.scale).toBe(1 / 4)
    const { names, tensors } = step.for({ first: 2, end: 3 })
    expect(names.map((name, index) => [name, valueOf(tensors[index])])).toEqual([['1.lora_A', 8], ['0.lora_A', 8], ['3.lora_A', 8]]
      .sort(([a], [b]) => String(a) < String(b) ? -1 : 1))
    for (const [name, value] of await parameters.values()) expect(valueOf(value), name).toBeCloseTo(1 - stepOf(2), 7)
  })

  it.each(['average', 'personal'] as const)('%s ends step each block on the mean over the tokens that passed it', async (mode) => {
    const { strategy, parameters } = await server(planOf(mode))
    await strategy.step(0, await upload({ '1.lora_A': 30, '2.lora_A': 40 }), [
      update('a', 3),
      update('b', 1, {}, { first: 2, end: 3 })
    ])
    const values = await parameters.values()
    expect(NAMES.map((name) => valueOf(values.get(name)))).toEqual([1, 1 - stepOf(10), 1 - stepOf(10), 1].map((value) =>
      expect.closeTo(value, 7) as number))
  })

  it.each(['average', 'personal'] as const)(
    '%s ends leave a block as it is that only clients without a part in the step passed',
    async (mode) => {
      const { strategy, parameters } = await server(planOf(mode, 'party', 1))
      await strategy.step(0, await upload({ '1.lora_A': 30, '2.lora_A': 0 }), [update('a', 3, {}, { first: 1, end: 2 })])
      const values = await parameters.values()
      expect(valueOf(values.get('2.lora_A'))).toBe(1)
      expect(valueOf(values.get('1.lora_A'))).toBeLessThan(1)
    }
  )

  it('averaged ends take the average by tokens every so many rounds, and keep it for those who missed it', async () => {
    const { strategy, state } = await server(planOf('average'))
    const first = await strategy.step(0, new Map(), [update('a', 1), update('b', 2)])
    expect(first.for(MIDDLE).names).toEqual([])
    await state.commit({ ...first, round: 1, lastTurn: 'b', counted: ['a', 'b'], members: [] })
    const ends = (value: number): Record<string, number> => ({ '0.lora_A': value, '3.lora_A': value })
    const second = await strategy.step(1, new Map(), [update('a', 1, ends(4)), update('b', 2, ends(1))])
    const { names, tensors } = second.for(MIDDLE)
    expect(names.map((name, index) => [name, valueOf(tensors[index])])).toEqual([['0.lora_A', 2], ['3.lora_A', 2]])
    expect(second.unaveragedTokens).toEqual({})
    await state.commit({ ...second, round: 2, lastTurn: 'b', counted: ['a', 'b'], members: [] })
    expect(strategy.stateFor(MIDDLE, 1).tensors.map(valueOf)).toEqual([2, 2])
    expect(strategy.stateFor(MIDDLE, 2).names).toEqual([])
  })

  it('go back to the last durable step', async () => {
    for (const mode of ['shared', 'average', 'personal'] as const) {
      const { strategy, parameters } = await server(planOf(mode))
      await strategy.step(0, await upload({ '1.lora_A': 6 }), [update('a', 3)])
      await strategy.revert()
      for (const [name, value] of await parameters.values()) expect(valueOf(value), `${mode} ${name}`).toBe(1)
    }
  })

  it.each([
    ['shared', 'global', false, true],
    ['average', 'global', true, true],
    ['personal', 'global', true, false],
    ['personal', 'party', false, false]
  ] as const)('%s ends with norms of scope %s: norms are told %s, the server holds all blocks %s', async (mode, scope, tells, holds) => {
    const plan = planOf(mode, scope, 1)
    const { client, serverHoldsEnds } = aggregationOf(plan)
    expect([client.tellsGradientNorm, (await server(plan)).strategy.collectsNorms, serverHoldsEnds]).toEqual([tells, tells, holds])
  })

  describe('on a client', () => {
    /** Adapters of a client that note what is done with them. */
    function adapters () {
      const done: string[] = []
      const note = (what: string) => async (): Promise<void> => {
        done.push(what)
      }
      const client: ClientAdapters = {
        values: async () => new Map([['values', filled(1)]]),
        download: async () => new Map([['gradients', filled(1)]]),
        step: async (_gradients, { scale, learningRate }) => {
          done.push(`step ${scale} ${learningRate}`)
        },
        promote: note('promote'),
        revert: note('revert'),
        adopt: note('adopt')
      }
      return { client, done }
    }

    it.each([
      ['shared', false, ['gradients'], ['gradients'], ['step 0.5 0.1'], ['step 0.5 0.1']],
      ['average', true, [], ['values'], ['promote', 'adopt'], ['revert', 'adopt']],
      ['personal', true, [], [], ['promote'], ['revert']]
    ] as const)('%s ends hand in and finish as they must', async (mode, stepsItself, first, second, counted, leftOut) => {
      const { client: strategy } = aggregationOf(planOf(mode))
      expect([strategy.stepsItself, strategy.sharesAdapters]).toEqual([stepsItself, mode === 'shared'])
      for (const [round, names] of [first, second].entries())
        expect([...(await strategy.contribution(round, adapters().client, new Map(), 0)).keys()]).toEqual(names)
      for (const [isCounted, expected] of [[true, counted], [false, leftOut]] as const) {
        const { client, done } = adapters()
        await strategy.finish(client, { counted: isCounted, tensors: new Map(), scale: 0.5, learningRate: 0.1 })
        expect(done).toEqual(expected)
      }
    })
  })
})
