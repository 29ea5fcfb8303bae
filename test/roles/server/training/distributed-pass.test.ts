import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import { ModelWeights } from '../../../../src/model/layers/weights.ts'
import { Boundary } from '../../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { TrainableSpan } from '../../../../src/model/training/trainable-span.ts'
import { LocalStage } from '../../../../src/roles/middle/local-stage.ts'
import type { BatchItem } from '../../../../src/roles/middle/stage.ts'
import { ReplicaGivenUpError } from '../../../../src/roles/server/training/distributed-pass.ts'
import { BlocksMissingError, DistributedStage } from '../../../../src/roles/server/training/distributed-stage.ts'
import { LocalHolder, type Holder } from '../../../../src/roles/server/training/holder.ts'
import { Replicas, splitGradientName } from '../../../../src/roles/training/hierarchy/replicas.ts'
import type { StageOutput } from '../../../../src/roles/training/participant.ts'
import type { Span } from '../../../../src/span.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'
import { baseWeights, formulaWeight, relativeError } from '../../../helpers/golden.ts'
import { memorySource } from '../../../helpers/source.ts'
import { shapesOf, TINY_CONFIG } from '../../../helpers/tiny-model.ts'
import { MemoryHolder, MemoryHolders, type Mishap, type Mishaps } from './memory-holders.ts'

const model = modelOf(TINY_CONFIG)
const SEED = 'round/3'
const TOLERANCE = 1e-5
const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }

function rows (name: string, count: number): Tensor[] {
  return [float32([count, model.hiddenSize], formulaWeight(name, 'rows', [count, model.hiddenSize]).data as Float32Array)]
}

function itemOf (id: string, { first, end }: Span, lengths: readonly number[]): BatchItem {
  return { id, first, end, lengths, tensors: rows(id, lengths.reduce((sum, length) => sum + length, 0)) }
}

function gradientsOf (items: readonly BatchItem[]): Map<string, { tensors: Tensor[] }> {
  return new Map(items.map(({ id, tensors }) => [id, { tensors: rows(`gradient of ${id}`, tensors[0]!.shape[0]!) }]))
}

/** Clients of different partitions and lengths. */
const items = [
  itemOf('a', { first: 1, end: 4 }, [4, 2]),
  itemOf('b', { first: 2, end: 4 }, [5]),
  itemOf('c', { first: 1, end: 3 }, [3, 3]),
  itemOf('d', { first: 1, end: 4 }, [2])
]

interface Result {
  readonly hidden: Map<string, ArrayLike<number>>
  readonly inputs: Map<string, ArrayLike<number>>
  readonly adapters: Map<string, ArrayLike<number>>
}

describe('a pass over several holders', () => {
  let device: Device
  let weights: ModelWeights
  let whole: LocalStage
  const stages = new Map<string, LocalStage>()
  const trainable = { r: 4, alpha: 8, targets: ['q_proj', 'v_proj'], dropout: 0.3, rslora: false, seed: '00' }
  const source = memorySource(baseWeights({ seed: 'tiny', shapes: shapesOf(TINY_CONFIG) }))

  async function stageOf (span: Span): Promise<LocalStage> {
    const key = `${span.first}-${span.end}`
    const known = stages.get(key)
    if (known !== undefined) return known
    const blocks = await TrainableSpan.load(device, model, source, span, trainable, { weights })
    const stage = new LocalStage({ device, span: blocks, boundary: new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' }) })
    stages.set(key, stage)
    return stage
  }

  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    weights = new ModelWeights(device, model, trainable)
    whole = await stageOf({ first: 0, end: model.layers })
    // B starts at zero, and its gradient alone would say little.
    await weights.setTrained(
      new Map([...weights.trained].map(([name, { shape }]) => [name, float32(shape, formulaWeight('lora', name, shape).data as Float32Array)]))
    )
  })
  afterAll(async () => { await device.close() })

  async function holdersOf (spans: ReadonlyArray<readonly [number, number]>, mishaps?: Mishaps): Promise<MemoryHolders> {
    const all: Holder[] = []
    for (const [index, [first, end]] of spans.entries())
      all.push(new MemoryHolder(`w${index}`, await stageOf({ first, end }), device, mishaps))
    return new MemoryHolders(all)
  }

  function stageOver (holders: MemoryHolders, signal = new AbortController().signal): DistributedStage {
    return new DistributedStage({ device, holders, logger: quiet, signal })
  }

  async function resultOf (pass: StageOutput, batch: readonly BatchItem[]): Promise<Result> {
    const inputs = await pass.backward(gradientsOf(batch))
    const adapters = new Map<string, ArrayLike<number>>()
    for (const [name, gradient] of pass.adapterGradients) adapters.set(name, (await device.download(gradient)).data as Float32Array)
    const data = (all: ReadonlyMap<string, readonly Tensor[]>): Map<string, ArrayLike<number>> =>
      new Map([...all].map(([id, [tensor]]) => [id, tensor!.data as Float32Array]))
    const result = { hidden: data(pass.hidden), inputs: data(inputs), adapters }
    pass.free()
    return result
  }

  /** The pass on one machine. */
  async function alone (batch: readonly BatchItem[] = items): Promise<Result> {
    return await resultOf(await whole.forward(batch, { dropoutSeed: SEED }), batch)
  }

  async function over (holders: MemoryHolders, batch: readonly BatchItem[] = items): Promise<Result> {
    return await resultOf(await stageOver(holders).forward(batch, { dropoutSeed: SEED }), batch)
  }

  function expectSame (actual: Result, expected: Result): void {
    for (const kind of ['hidden', 'inputs', 'adapters'] as const) {
      expect([...actual[kind].keys()].sort(), kind).toEqual([...expected[kind].keys()].sort())
      for (const [name, values] of expected[kind])
        expect(relativeError(actual[kind].get(name)!, values), `${kind} of ${name}`).toBeLessThan(TOLERANCE)
    }
  }

  it.each([
    ['one holder', [[1, 4]]],
    ['two in series', [[1, 2], [2, 4]]],
    ['three in series', [[1, 2], [2, 3], [3, 4]]],
    ['two replicas', [[1, 4], [1, 4]]],
    ['two in series of two replicas each', [[1, 3], [1, 3], [3, 4], [3, 4]]],
    ['spans that overlap', [[1, 3], [2, 4], [0, 2]]]
  ] as const)('computes over %s what one machine does', async (_, spans) => {
    expectSame(await over(await holdersOf(spans)), await alone())
  })

  it('has the local device compute its blocks, and workers the others', async () => {
    const holders = new MemoryHolders([
      new LocalHolder('me', await stageOf({ first: 1, end: 2 })),
      new MemoryHolder('w', await stageOf({ first: 2, end: 5 }), device)
    ])
    expectSame(await over(holders), await alone())
  })

  it('spreads hundreds of items over replicas, and loses none when one is lost', async () => {
    const many = Array.from({ length: 300 }, (_, i) =>
      itemOf(`client-${String(i).padStart(3, '0')}`, { first: 1 + i % 2, end: 4 }, [1 + i % 3]))
    let left = 1
    const holders = await holdersOf([[1, 4], [1, 4], [1, 3], [3, 4]], ({ peer }, operation) =>
      peer === 'w1' && operation === 'backward' && left-- > 0 ? 'lost' : undefined)
    expectSame(await over(holders, many), await alone(many))
    expect(holders.losses).toEqual(['w1'])
    for (const holder of holders.all) expect((holder as MemoryHolder).forwards.length, holder.peer).toBeGreaterThan(0)
  })

  it('is the same for any holders, any clients and any losses', async () => {
    const spanIn = (from: number, to: number): fc.Arbitrary<readonly [number, number]> =>
      fc.tuple(fc.integer({ min: from, max: to - 1 }), fc.integer({ min: from + 1, max: to })).filter(([first, end]) => first < end)
    const lengths = fc.array(fc.integer({ min: 1, max: 3 }), { minLength: 1, maxLength: 2 })
    const batch = fc.array(fc.record({ span: spanIn(0, 5), lengths }), { minLength: 1, maxLength: 4 }).map((drawn) =>
      drawn.map(({ span: [first, end], lengths }, i) => itemOf(`client-${i}`, { first, end }, lengths)))
    // Whatever is drawn, each block has a holder in the end.
    const spans = fc.tuple(fc.array(spanIn(0, 5), { maxLength: 4 }), fc.integer({ min: 1, max: 4 }))
      .map(([more, cut]): Array<readonly [number, number]> => [...more, [0, cut], [cut, 5]])
    await fc.assert(
      fc.asyncProperty(batch, spans, fc.array(fc.nat(30), { maxLength: 4 }), async (drawn, held, losses) => {
        let asked = 0
        const holders = await holdersOf(held, () => losses.includes(asked++) ? 'lost' : undefined)
        expectSame(await over(holders, drawn), await alone(drawn))
      }),
      { numRuns: 40, seed: 7 }
    )
  }, 60_000)

  it('has one stage compute while another does, where there are tokens enough', async () => {
    const large = Array.from({ length: 8 }, (_, i) => itemOf(`client-${i}`, { first: 1, end: 4 }, Array.from({ length: 8 }, () => 64)))
    const order: string[] = []
    const holders = await holdersOf([[1, 3], [3, 4]])
    for (const holder of holders.all as MemoryHolder[]) {
      const forward = holder.forward.bind(holder)
      holder.forward = async (...given) => {
        order.push(`${holder.peer} begins`)
        const pass = await forward(...given)
        order.push(`${holder.peer} is done`)
        const backward = pass.backward.bind(pass)
        pass.backward = async (...gradients) => {
          order.push(`${holder.peer} goes back`)
          const inputs = await backward(...gradients)
          order.push(`${holder.peer} is back`)
          return inputs
        }
        return pass
      }
    }
    expectSame(await over(holders, large), await alone(large))
    expect(order.filter((entry) => entry === 'w0 begins')).toHaveLength(4)
    expect(order.indexOf('w1 begins')).toBeLessThan(order.lastIndexOf('w0 is done'))
    expect(order.indexOf('w0 goes back')).toBeLessThan(order.lastIndexOf('w1 is back'))
  })

  it('counts an item without a gradient as if it had not been there', async () => {
    const holders = await holdersOf([[1, 3], [3, 4], [3, 4]])
    const pass = await stageOver(holders).forward(items, { dropoutSeed: SEED })
    const without = items.filter(({ id }) => id !== 'a')
    const { hidden: _, ...left } = await resultOf(pass, without)
    const { hidden: __, ...expected } = await alone(without)
    expectSame({ hidden: new Map(), ...left }, { hidden: new Map(), ...expected })
  })

  it('waits for blocks that nobody serves, says which, and goes on when they are served', async () => {
    const holders = await holdersOf([[1, 2], [2, 4]])
    holders.away.add('w1')
    const stage = stageOver(holders)
    const pass = stage.forward(items, { dropoutSeed: SEED })
    await expect.poll(() => stage.missing).toEqual([{ first: 2, end: 4 }])
    holders.back('w1')
    expectSame(await resultOf(await pass, items), await alone())
    expect(stage.missing).toEqual([])
  })

  it('ends a wait when the server stops', async () => {
    const controller = new AbortController()
    const pass = stageOver(await holdersOf([[1, 2]]), controller.signal).forward(items, { dropoutSeed: SEED })
    setTimeout(() => { controller.abort(new Error('stopping')) }, 5)
    await expect(pass).rejects.toThrow('stopping')
  })

  it.each(['forward', 'backward', 'collect'] as const)('leaves a replica out whose %s is not finite', async (wrong) => {
    const holders = await holdersOf([[1, 4], [1, 4]], ({ peer }, operation): Mishap => peer === 'w0' && operation === wrong ? 'nan' : undefined)
    expectSame(await over(holders), await alone())
    expect(holders.faults).toEqual(['w0'])
  })

  it('leaves a sole holder out that has nothing finite for anybody, and waits for another', async () => {
    const holders = await holdersOf([[1, 4], [1, 4]], ({ peer }): Mishap => peer === 'w0' ? 'nan' : undefined)
    holders.away.add('w1')
    const stage = stageOver(holders)
    const pass = stage.forward(items, { dropoutSeed: SEED })
    await expect.poll(() => stage.missing).toEqual([{ first: 1, end: 4 }])
    holders.back('w1')
    expectSame(await resultOf(await pass, items), await alone())
    expect(holders.faults).toEqual(['w0'])
  })

  it('leaves a client out whose gradients overflow between two holders, and no holder', async () => {
    const holders = await holdersOf([[1, 2], [1, 2], [2, 4]])
    const pass = await stageOver(holders).forward(items, { dropoutSeed: SEED })
    const wild = gradientsOf(items)
    wild.set('a', { tensors: [float32([6, model.hiddenSize], new Float32Array(6 * model.hiddenSize).fill(3e38))] })
    await pass.backward(wild)
    expect([...pass.unsound]).toEqual(['a'])
    expect(holders.faults).toEqual([])
    pass.free()
  })

  it('evaluates over several holders, another one where one is lost', async () => {
    let left = 1
    const holders = await holdersOf([[1, 2], [2, 4], [2, 4]], ({ peer }) => peer === 'w1' && left-- > 0 ? 'lost' : undefined)
    const [expected] = await whole.evaluate(items[0]!)
    const [actual] = await stageOver(holders).evaluate(items[0]!)
    expect(relativeError(actual!.data as Float32Array, expected!.data as Float32Array)).toBeLessThan(TOLERANCE)
  })

  it('refuses to evaluate blocks that nobody serves', async () => {
    const stage = stageOver(await holdersOf([[1, 2]]))
    await expect(stage.evaluate(items[0]!)).rejects.toThrow(BlocksMissingError)
    await expect(stage.evaluate(items[0]!)).rejects.toThrow('blocks 2-4: nobody serves them')
  })

  describe('where servers of the same blocks have parameters of their own', () => {
    function replicated (holders: MemoryHolders, replicaGraceMs = 60_000): { stage: DistributedStage, replicas: Replicas } {
      const replicas = new Replicas({ round: 0, replicas: undefined }, 4)
      const { signal } = new AbortController()
      return { replicas, stage: new DistributedStage({ device, holders, replicas, replicaGraceMs, logger: quiet, signal }) }
    }

    const pairs = [['w0', ['a', 'c']], ['w1', ['b', 'd']]] as const

    /** Expects of each server the gradients of its own clients, summed, and of all clients what one machine computes. */
    async function expectByServer ({ adapters, ...rest }: Result): Promise<void> {
      const { adapters: _, ...expected } = await alone()
      expectSame({ ...rest, adapters: new Map() }, { ...expected, adapters: new Map() })
      for (const [server, clients] of pairs) {
        const own = [...adapters].filter(([key]) => splitGradientName(key).server === server)
        const { adapters: sums } = await alone(items.filter(({ id }) => (clients as readonly string[]).includes(id)))
        expect(own).toHaveLength(sums.size)
        for (const [key, values] of own)
          expect(relativeError(values, sums.get(splitGradientName(key).name)!), key).toBeLessThan(TOLERANCE)
      }
    }

    it('sums gradients by server, each over its own clients', async () => {
      const { stage } = replicated(await holdersOf([[1, 4], [1, 4]]))
      await expectByServer(await resultOf(await stage.forward(items, { dropoutSeed: SEED }), items))
    })

    it.each(['forward', 'backward', 'collect'] as const)('waits for a server that is lost at its %s, and has it compute again', async (lost) => {
      let left = 1
      const holders = await holdersOf([[1, 4], [1, 4]], ({ peer }, operation) =>
        peer === 'w0' && operation === lost && left-- > 0 ? 'lost' : undefined)
      const { stage } = replicated(holders)
      await expectByServer(await resultOf(await stage.forward(items, { dropoutSeed: SEED }), items))
      expect(holders.losses).toEqual(['w0'])
      expect((holders.all[1] as MemoryHolder).forwards).toEqual([['b', 'd']])
    })

    it('gives a server up that stays away: the pass begins anew, and the others compute it', async () => {
      const holders = await holdersOf([[1, 4], [1, 4]])
      const { stage, replicas } = replicated(holders, 0)
      ;(await stage.forward(items, { dropoutSeed: SEED })).free()
      holders.away.add('w1')
      await expect(stage.forward(items, { dropoutSeed: SEED })).rejects.toThrow(ReplicaGivenUpError)
      const result = await resultOf(await stage.forward(items, { dropoutSeed: SEED }), items)
      expect(new Set([...result.adapters.keys()].map((key) => splitGradientName(key).server))).toEqual(new Set(['w0']))
      expect(replicas.has('w1')).toBe(false)
    })

    it('waits for a sole holder for as long as it takes, and evaluates on the server of the client', async () => {
      const holders = await holdersOf([[1, 3], [3, 4], [1, 3]])
      const { stage } = replicated(holders, 0)
      ;(await stage.forward(items, { dropoutSeed: SEED })).free()
      holders.away.add('w1')
      const pass = stage.forward(items, { dropoutSeed: SEED })
      await expect.poll(() => stage.missing).toEqual([{ first: 3, end: 4 }])
      holders.back('w1')
      ;(await pass).free()
      const evaluated: string[] = []
      for (const holder of holders.all as MemoryHolder[]) {
        const evaluate = holder.evaluate.bind(holder)
        holder.evaluate = async (item) => {
          evaluated.push(holder.peer)
          return await evaluate(item)
        }
      }
      for (const item of [items[0]!, items[2]!]) await stage.evaluate(item)
      expect(evaluated).toEqual(['w0', 'w1', 'w0'])
    })
  })

  it('leaves nothing on the device', async () => {
    const before = (await device.memory()).heldBytes
    const losses = new Set([1, 4, 9])
    let asked = 0
    await over(await holdersOf([[1, 3], [1, 3], [3, 4]], () => losses.has(asked++) ? 'lost' : undefined))
    expect((await device.memory()).heldBytes).toBe(before)
  })
})
