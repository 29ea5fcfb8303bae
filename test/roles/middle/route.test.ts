import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { Boundary } from '../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { BadMessageError, ChannelResetError } from '../../../src/protocols/wire/errors.ts'
import { LocalStage } from '../../../src/roles/middle/local-stage.ts'
import { Route } from '../../../src/roles/middle/route.ts'
import type { BatchItem, CachedHiddenStates, Stage, StageCache } from '../../../src/roles/middle/stage.ts'
import type { Span } from '../../../src/span.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { baseWeights, formulaWeight, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

const golden = readModelGolden('llama/gqa')
const model = modelOf(golden.config)
const options = { round: 3, pass: 0, dropoutSeed: 'round/3' }

function states (name: string, count: number): Tensor[] {
  return [float32([count, model.hiddenSize], formulaWeight(name, 'rows', [count, model.hiddenSize]).data as Float32Array)]
}

const values = (tensors: readonly Tensor[] | undefined): Float32Array => tensors![0]!.data as Float32Array

/** A stage whose caches break when they are told to, and that notes what goes into them. */
class BreakingStage implements Stage {
  readonly sent: Float32Array[] = []
  opened = 0
  closed = 0
  readonly #stage: Stage
  readonly #fails: (calls: number, opened: number) => Error | undefined

  constructor (stage: Stage, fails: (calls: number, opened: number) => Error | undefined) {
    this.#stage = stage
    this.#fails = fails
  }

  get span (): Span { return this.#stage.span }
  forward: Stage['forward'] = async (...given) => await this.#stage.forward(...given)
  evaluate: Stage['evaluate'] = async (...given) => await this.#stage.evaluate(...given)

  async openCache (span: Span, capacity: number): Promise<StageCache> {
    const cache = await this.#stage.openCache(span, capacity)
    const opened = ++this.opened
    let calls = 0
    return {
      capacity,
      get length () { return cache.length },
      forward: async (given) => {
        const error = this.#fails(++calls, opened)
        if (error !== undefined) throw error
        this.sent.push(Float32Array.from(values(given.tensors)))
        return await cache.forward(given)
      },
      rewind: (position) => { cache.rewind(position) },
      close: async () => {
        this.closed++
        await cache.close()
      }
    }
  }
}

describe('a route', { timeout: 60_000 }, () => {
  let device: Device
  const stages = new Map<string, LocalStage>()
  const stage = (first: number, end: number): LocalStage => stages.get(`${first}-${end}`)!

  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    for (const [first, end] of [[0, 3], [0, 1], [1, 3]] as const) {
      const span = await TrainableSpan.load(device, model, memorySource(baseWeights(golden)), { first, end }, {
        ...golden.lora,
        dropout: 0,
        rslora: false,
        seed: '00'
      })
      await span.weights.setTrained(
        new Map([...loraWeights(golden)].filter(([name]) => {
          const block = Number(name.split('.')[0])
          return block >= first && block < end
        }))
      )
      stages.set(
        `${first}-${end}`,
        new LocalStage({ device, span, boundary: new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' }) })
      )
    }
  })
  afterAll(async () => { await device.close() })

  const items: readonly BatchItem[] = [
    { id: 'a', first: 0, end: 3, lengths: [4, 2], tensors: states('a', 6) },
    { id: 'b', first: 1, end: 3, lengths: [5], tensors: states('b', 5) },
    { id: 'c', first: 0, end: 1, lengths: [3], tensors: states('c', 3) }
  ]
  const gradients = new Map(items.map(({ id, tensors }) => [id, { tokens: 1, tensors: states(`gradient ${id}`, tensors[0]!.shape[0]!) }]))

  it('takes each client through its blocks and back, over two stages as over one', async () => {
    const [one, two] = [new Route([stage(0, 3)]), new Route([stage(0, 1), stage(1, 3)])]
    expect(two.span).toEqual({ first: 0, end: 3 })
    const results = []
    for (const route of [one, two]) {
      const pass = await route.forward(items, options)
      results.push({ hidden: pass.hidden, inputs: await pass.backward(gradients), evaluated: await route.evaluate(items[0]!) })
      pass.free()
    }
    const [expected, actual] = results
    for (const { id } of items) {
      expect(relativeError(values(actual!.hidden.get(id)), values(expected!.hidden.get(id)))).toBeLessThan(1e-5)
      expect(relativeError(values(actual!.inputs.get(id)), values(expected!.inputs.get(id)))).toBeLessThan(1e-5)
    }
    expect(relativeError(values(actual!.evaluated), values(expected!.evaluated))).toBeLessThan(1e-5)
  })

  it('is refused where its stages do not follow one another', () => {
    expect(() => new Route([stage(1, 3), stage(0, 1)])).toThrow(RangeError)
    expect(() => new Route([])).toThrow(RangeError)
  })

  const text: readonly CachedHiddenStates[] = [4, 1, 1, 1, 2, 1].map((count, i) => ({
    tensors: states(`part ${i}`, count),
    context: undefined
  }))

  async function outputs (route: Route): Promise<Float32Array[]> {
    const cache = await route.openCache(route.span, 16)
    const all: Float32Array[] = []
    for (const part of text) all.push(Float32Array.from(values(await cache.forward(part))))
    expect(cache.length).toBe(10)
    await cache.close()
    return all
  }

  function expectSame (actual: readonly Float32Array[], expected: readonly Float32Array[]): void {
    expect(actual).toHaveLength(expected.length)
    for (const [i, part] of expected.entries()) expect(relativeError(actual[i]!, part)).toBeLessThan(1e-5)
  }

  it('generates over two stages what it does over one', async () => {
    expectSame(await outputs(new Route([stage(0, 1), stage(1, 3)])), await outputs(new Route([stage(0, 3)])))
  })

  it.each([1, 512])('opens a lost stage again and sends what it had sent, %i at a time, as it was', async (replayTokens) => {
    const expected = await outputs(new Route([stage(0, 3)]))
    const breaking = new BreakingStage(stage(0, 3), (calls, opened) => opened < 3 && calls === 3 ? new ChannelResetError() : undefined)
    const waits: string[] = []
    const actual = await outputs(new Route([breaking], { replayTokens, onWaiting: (reason) => { waits.push(reason) } }))
    expectSame(actual, expected)
    expect(waits.length).toBeGreaterThan(0)
    expect(breaking.closed).toBe(breaking.opened)
    const known = text.flatMap(({ tensors }) => [...values(tensors)])
    expect([...breaking.sent.at(-1)!]).toEqual(known.slice(-model.hiddenSize))
    const replayed = new Set(known)
    for (const part of breaking.sent) expect([...part].every((value) => replayed.has(value))).toBe(true)
  })

  it('gives up with the reason when the stage does not come back in time', async () => {
    const breaking = new BreakingStage(stage(0, 3), () => new ChannelResetError())
    await expect(outputs(new Route([breaking], { timeoutMs: 400 }))).rejects.toMatchObject({ code: 'E_CHANNEL_RESET' })
    expect(breaking.closed).toBe(breaking.opened)
  })

  it('ends at once at a failure that does not pass', async () => {
    const breaking = new BreakingStage(stage(0, 3), () => new BadMessageError('what'))
    await expect(outputs(new Route([breaking]))).rejects.toMatchObject({ code: 'E_BAD_MESSAGE' })
    expect(breaking.opened).toBe(1)
  })

  it('goes on from where it was rewound to, also after a stage was lost', async () => {
    const expected = await outputs(new Route([stage(0, 3)]))
    for (const lost of [false, true]) {
      let armed = false
      const breaking = new BreakingStage(stage(0, 3), (_, opened) => armed && opened === 1 ? new ChannelResetError() : undefined)
      const cache = await new Route([breaking]).openCache({ first: 0, end: 3 }, 16)
      await cache.forward({ tensors: states('part 0', 4), context: undefined })
      await cache.forward({ tensors: states('something else', 3), context: undefined })
      cache.rewind(4)
      expect(() => { cache.rewind(5) }).toThrow(RangeError)
      armed = lost
      for (const [i, part] of text.entries()) if (i > 0) expectSame([values(await cache.forward(part))], [expected[i]!])
      await cache.close()
    }
  })
})
