import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { modelOf, type Model, type Partition } from '../../../../src/model/families/index.ts'
import { LocalGenerator } from '../../../../src/model/generation/local-generator.ts'
import { createSampler, type SamplingOptions } from '../../../../src/model/generation/sampling.ts'
import { MiddleMap } from '../../../../src/model/generation/speculation/middle-map.ts'
import type { WeightSource } from '../../../../src/model/layers/weights.ts'
import { Boundary, type Protection } from '../../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../../../src/model/training/client-model.ts'
import { TrainableSpan } from '../../../../src/model/training/trainable-span.ts'
import { generateTokens, type Drafting } from '../../../../src/roles/client/generation/generator.ts'
import { Sequence } from '../../../../src/roles/client/generation/sequence.ts'
import { LocalStage } from '../../../../src/roles/middle/local-stage.ts'
import { Route } from '../../../../src/roles/middle/route.ts'
import type { Stage } from '../../../../src/roles/middle/stage.ts'
import { bytesOf, tensorRows, type Tensor } from '../../../../src/tensor.ts'
import { promptOf, readChatGLMGolden } from '../../../helpers/chatglm.ts'
import { baseWeights, formulaWeight, readModelGolden, relativeError } from '../../../helpers/golden.ts'
import { watchReleases } from '../../../helpers/releases.ts'
import { memorySource } from '../../../helpers/source.ts'
import { reset } from '../../middle/counting-stage.ts'
import { UNCOUNTED } from '../training/split-trainer.ts'

const TOKENS = 20
const PARTITION: Partition = { inputBlocks: 1, outputBlocks: 0 }
const PLAIN: Protection = { clip: null, noise: 0 }
const GREEDY: SamplingOptions = { temperature: 0, seed: '' }
const SAMPLED: SamplingOptions = { temperature: 0.9, topP: 0.95, seed: '7' }

/** Of each round in turn: the number of drafted tokens, and the first of them that is wrong. */
const PLANS: ReadonlyArray<readonly [count: number, wrong: number]> = [[4, 4], [0, 0], [3, 0], [2, 1], [1, 1], [4, 2], [4, 0]]

/** Drafts what a text will be, but for the tokens that the plan makes wrong. */
class KnowingDrafts implements Drafting {
  readonly rounds: Array<{ readonly tokens: number, readonly sent: number, readonly accepted: number }> = []
  readonly #text: readonly number[]
  #done = 0

  constructor (text: readonly number[]) {
    this.#text = text
  }

  draft (room: number): number[] {
    const [count, wrong] = PLANS[this.rounds.length % PLANS.length]!
    return this.#text.slice(this.#done, this.#done + Math.min(count, room)).map((id, i) => i === wrong ? id === 5 ? 6 : 5 : id)
  }

  committed (tokens: readonly number[], { sent, accepted }: { readonly sent: number, readonly accepted: number }): void {
    this.#done += tokens.length
    this.rounds.push({ tokens: tokens.length, sent, accepted })
  }
}

const NONE: Drafting = { draft: () => [], committed: () => {} }

/** The first block of the middle and the rest, as two stages. `failsAt` names the requests at which the second loses its cache. */
async function openModel (device: Device, model: Model, source: WeightSource, protection: Protection = PLAIN) {
  const ends = await loadClientModel(device, model, source, PARTITION, 'weights')
  const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' })
  const stages = await Promise.all([{ first: 1, end: 2 }, { first: 2, end: model.layers }].map(async (span) =>
    new LocalStage({ device, span: await TrainableSpan.load(device, model, source, span, 'weights'), boundary })))
  /** Rows that the first stage was sent, in order. */
  const received: Tensor[][] = []
  const failing = (stage: LocalStage, failsAt: readonly number[], seen: Tensor[][] | undefined): Stage => {
    let requests = 0
    return {
      span: stage.span,
      forward: () => reset(),
      evaluate: () => reset(),
      openCache: async (span, capacity) => {
        const cache = await stage.openCache(span, capacity)
        const forward = cache.forward.bind(cache)
        return Object.assign(cache, {
          forward: async (...[states, signal]: Parameters<typeof forward>) => {
            if (seen !== undefined) seen.push([...states.tensors])
            else if (failsAt.includes(++requests)) reset()
            return await forward(states, signal)
          }
        })
      }
    }
  }
  const open = async (capacity: number, failsAt: readonly number[] = [], map?: MiddleMap): Promise<Sequence> => {
    const route = new Route([failing(stages[0]!, [], received), failing(stages[1]!, failsAt, undefined)], { timeoutMs: 5_000 })
    const settings = { protection, keepsStream: false, partition: PARTITION, capacity, text: '' }
    return await Sequence.open({ weights: ends.weights, boundary, route, ledger: UNCOUNTED, map }, settings, signal)
  }
  return {
    received,
    open,
    text: async (
      prompt: readonly number[], sampling: SamplingOptions, drafting: Drafting, failsAt: readonly number[] = [], map?: MiddleMap
    ) => {
      const sequence = await open(prompt.length + TOKENS, failsAt, map)
      const limits = { maxTokens: TOKENS, stopIds: [] }
      try {
        return (await Array.fromAsync(generateTokens(sequence, prompt, sampling, limits, drafting, signal))).map(({ id }) => id)
      } finally {
        await sequence.close()
      }
    }
  }
}

const { signal } = new AbortController()
let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })
afterEach(() => { vi.restoreAllMocks() })

const chatglm = readChatGLMGolden('130528')
const families = ['llama/gqa', 'mistral/window', 'qwen2/window-tied', 'qwen3/bias-window-tied', 'glm/plain', 'glm4/plain', 'chatglm2/plain']
const cases = [
  ...families.map((name) => {
    const golden = readModelGolden(name)
    return { name, config: golden.config, weights: baseWeights(golden), prompt: golden.ids[0]! }
  }),
  { name: 'chatglm/130528', config: chatglm.config, weights: baseWeights(chatglm), prompt: promptOf(chatglm.ids[0]!) }
]

describe.each(cases)('a text of $name with drafted tokens', ({ config, weights, prompt }) => {
  const model = modelOf(config)
  const source = memorySource(weights)

  it.each([['greedy', GREEDY], ['sampled', SAMPLED]])('is what one machine makes of it, %s, also when a stage is lost', async (_, sampling) => {
    const generator = await LocalGenerator.load(device, model, source)
    const expected = await Array.fromAsync(generator.generate(prompt, createSampler(sampling), { maxTokens: TOKENS }))
    generator.free()
    const { text } = await openModel(device, model, source)
    expect(await text(prompt, sampling, NONE)).toEqual(expected)
    const drafting = new KnowingDrafts(expected)
    expect(await text(prompt, sampling, drafting, [4])).toEqual(expected)
    expect(drafting.rounds.some(({ sent, accepted }) => sent === 4 && accepted === 4)).toBe(true)
    expect(drafting.rounds.some(({ sent, accepted }) => sent > accepted)).toBe(true)
    expect(drafting.rounds.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(TOKENS)
    expect(drafting.rounds.length).toBeLessThan(TOKENS)
  })
})

describe('drafted tokens with noise', () => {
  const golden = readModelGolden('llama/gqa')

  it('are released once for what stands before them, and sent again as they were', async () => {
    const [clean, released]: [Float32Array[], string[]] = [[], []]
    watchReleases((rows, { tensors }) => {
      for (let row = 0; row < rows.shape[0]!; row++) clean.push(tensorRows(rows, row, row + 1).data as Float32Array)
      released.push(...rowsOf(tensors))
    })
    const { text, received } = await openModel(device, modelOf(golden.config), memorySource(baseWeights(golden)), { clip: 4, noise: 0.5 })
    // The text is another each time, and so are the drafts that are wrong.
    const drafting = new KnowingDrafts(Array.from({ length: TOKENS }, (_, i) => 7 + i))
    await text(golden.ids[0]!, GREEDY, drafting, [3, 6])
    expect(drafting.rounds.some(({ sent }) => sent === 4)).toBe(true)
    for (const [i, row] of clean.entries())
      for (const other of clean.slice(i + 1)) expect(relativeError(row, other)).toBeGreaterThan(1e-4)
    expect(new Set(released).size).toBe(released.length)
    const sent = received.flatMap(rowsOf)
    expect(sent.length).toBeGreaterThan(TOKENS)
    for (const row of sent) expect(released).toContain(row)
  })
})

describe('drafts of a map of the middle', () => {
  it.each(['llama/gqa', 'mistral/window'])('leave a text of %s as it is, however wrong the map', async (name) => {
    const golden = readModelGolden(name)
    const { text } = await openModel(device, modelOf(golden.config), memorySource(baseWeights(golden)))
    const hidden = modelOf(golden.config).hiddenSize
    const width = 2 * hidden + 1
    const map = new MiddleMap(device, hidden)
    const filled = (rows: number, columns: number): Tensor => formulaWeight('map', `${rows}`, [rows, columns])
    await map.restore({ pairs: 1, zz: filled(width, width), zy: filled(width, hidden), map: filled(width, hidden) })
    const expected = await text(golden.ids[0]!, GREEDY, NONE)
    let drafted = 0
    const drafting: Drafting = {
      draft: async (room, predict) => await predict(Math.min(3, room)),
      committed: (_, { sent }) => { drafted += sent }
    }
    expect(await text(golden.ids[0]!, GREEDY, drafting, [4], map)).toEqual(expected)
    expect(drafted).toBeGreaterThan(TOKENS)
    expect(await text(golden.ids[0]!, SAMPLED, drafting, [], map)).toEqual(await text(golden.ids[0]!, SAMPLED, NONE))
    await map.close()
  })
})

describe('a sequence that goes on with another text', () => {
  const golden = readModelGolden('llama/gqa')
  const prompt = golden.ids[0]!

  /** The logits after a text in a sequence of its own. */
  const alone = async (open: (capacity: number) => Promise<Sequence>, ids: readonly number[]): Promise<Float32Array> => {
    const sequence = await open(ids.length)
    const logits = await sequence.next(ids, { guess: false }, signal)
    await sequence.close()
    return logits
  }

  it('goes back to where they differ, makes room, and computes what a new one does', async () => {
    const { open, received } = await openModel(device, modelOf(golden.config), memorySource(baseWeights(golden)))
    const sequence = await open(prompt.length)
    await sequence.next(prompt, { guess: true }, signal)
    const texts = [[...prompt, 5, 6], [...prompt.slice(0, 3), 9, 8, 7], [...prompt.slice(0, 3), 9, 8], [...prompt.slice(0, 3), 9, 8]]
    for (const ids of texts) {
      const expected = await alone(open, ids)
      received.length = 0
      const rest = sequence.resume(ids)
      if (sequence.capacity < ids.length) await sequence.grow(ids.length + 4, signal)
      const logits = await sequence.next(rest, { guess: true }, signal)
      expect(relativeError(logits, expected)).toBeLessThan(1e-4)
      expect(sequence.released.ids).toEqual(ids)
    }
    // An equal text sends its last token again.
    expect(received.flatMap(rowsOf)).toEqual(rowsOf(sequence.released.rows(4, 5)))
    await sequence.close()
  })

  it('sends what another released as it was released, and counts what was not', async () => {
    const { open, received } = await openModel(device, modelOf(golden.config), memorySource(baseWeights(golden)), { clip: 4, noise: 0.5 })
    const [first, second] = [await open(16), await open(16)]
    await first.next(prompt.slice(0, 4), { guess: false }, signal)
    const sent = received.splice(0).flatMap(rowsOf)
    const ids = [...prompt.slice(0, 3), 9, 8]
    await second.next(second.resume(ids, first.released), { guess: false }, signal)
    const again = received.flatMap(rowsOf)
    expect(again.slice(0, 3)).toEqual(sent.slice(0, 3))
    for (const row of again.slice(3)) expect(sent).not.toContain(row)
    expect([first.freshStates, second.freshStates]).toEqual([4, 2])
    for (const sequence of [first, second]) await sequence.close()
  })
})

describe('generating with drafts', () => {
  const golden = readModelGolden('llama/gqa')

  it('drafts no token beyond the last one that is wanted', async () => {
    const { text } = await openModel(device, modelOf(golden.config), memorySource(baseWeights(golden)))
    const rooms: number[] = []
    const drafting: Drafting = {
      draft: (room) => {
        rooms.push(room)
        return [5, 5, 5, 5].slice(0, room)
      },
      committed: () => {}
    }
    expect(await text(golden.ids[0]!, GREEDY, drafting)).toHaveLength(TOKENS)
    expect(rooms[0]).toBe(TOKENS - 2)
    expect(Math.min(...rooms)).toBeGreaterThanOrEqual(0)
  })
})

/** Returns the bytes of each row, as text. */
function rowsOf (tensors: readonly Tensor[]): string[] {
  return Array.from({ length: tensors[0]!.shape[0]! }, (_, row) =>
    tensors.map((part) => Buffer.from(bytesOf(tensorRows(part, row, row + 1))).toString('hex')).join(' '))
}
