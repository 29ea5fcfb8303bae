import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { modelOf, PromptError, type Config } from '../../../src/model/families/index.ts'
import { CachedClientModel } from '../../../src/model/generation/cached-client-model.ts'
import { CachedSpan } from '../../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../../src/model/generation/kv-cache.ts'
import { LocalGenerator } from '../../../src/model/generation/local-generator.ts'
import { argmax } from '../../../src/model/generation/sampling.ts'
import { concatRows, sliceRows } from '../../../src/model/layers/hidden-states.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../../src/model/training/client-model.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { float32 } from '../../../src/tensor.ts'
import { chatglmRevisions, promptOf, readChatGLMGolden } from '../../helpers/chatglm.ts'
import { baseWeights, decodeTensor, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import { shapesOf } from '../../helpers/tiny-model.ts'
import { computed } from './computed.ts'

let device: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
})
afterAll(async () => {
  await device.close()
})

const values = async (value: DeviceTensor) => (await device.download(value)).data as Float32Array

function setUp (revision: typeof chatglmRevisions[number]) {
  const golden = readChatGLMGolden(revision)
  return { golden, model: modelOf(golden.config), source: memorySource(baseWeights(golden)) }
}

describe.each(chatglmRevisions)('generation with the original ChatGLM, revision %s', (revision) => {
  it('gives the ids of full passes on one machine', async () => {
    const { golden, model, source } = setUp(revision)
    const generator = await LocalGenerator.load(device, model, source)
    for (const [i, expected] of golden.greedy.entries()) {
      const ids: number[] = []
      for await (const id of generator.generate(promptOf(golden.ids[i]!), argmax, { maxTokens: expected.length })) ids.push(id)
      expect(ids).toEqual(expected)
    }
    generator.free()
  })

  it.each([[0, 0], [1, 0], [1, 1], [0, 2]])(
    'gives them cut as %i | … | %i, prompts and single tokens of several sequences sharing runs',
    async (inputBlocks, outputBlocks) => {
      const { golden, model, source } = setUp(revision)
      const before = await device.memory()
      const ends = await loadClientModel(device, model, source, { inputBlocks, outputBlocks }, 'weights')
      const middle = new ModelWeights(device, model, 'weights')
      const span = { first: inputBlocks, end: model.layers - outputBlocks }
      await middle.loadBlocks(source, span)
      const server = new CachedSpan(middle)
      const sequences = await Promise.all(golden.ids.map(async (ids) => ({
        prompt: promptOf(ids),
        ids: [] as number[],
        client: await CachedClientModel.create(ends.weights, { inputBlocks, outputBlocks }, 32),
        cache: await SequenceCache.create(device, model, span, 32)
      })))
      // One more sequence joins each time, so that its prompt meets the others' single tokens.
      for (let step = 0; sequences.some(({ ids }) => ids.length < golden.greedy[0]!.length); step++) {
        const active = sequences.filter(({ ids }, i) => i <= step && ids.length < golden.greedy[0]!.length)
        const fresh = active.map(({ prompt, ids }) => ids.length === 0 ? prompt : ids.slice(-1))
        const up: DeviceTensor[] = []
        for (const [i, { client }] of active.entries()) up.push(await computed(device, await client.embed(fresh[i]!)))
        const joined = await concatRows(device, up)
        const rows = active.map(({ cache, client }, i) => ({ cache, count: fresh[i]!.length, context: client.contextAt(cache.length) }))
        const across = await server.forward(joined, rows, span)
        let start = 0
        for (const [i, { ids, client, cache }] of active.entries()) {
          const own = await sliceRows(device, across, start, start += fresh[i]!.length)
          cache.length += fresh[i]!.length
          ids.push(argmax(await client.logits(own, fresh[i]!.length)))
        }
        device.free(...up, joined, across)
      }
      expect(sequences.map(({ ids }) => ids)).toEqual(golden.greedy)
      for (const { client, cache } of sequences) {
        client.free()
        cache.free()
      }
      ends.weights.free()
      middle.free()
      expect((await device.memory()).heldBytes).toBe(before.heldBytes)
    }
  )

  it('computes the hidden states of a whole sequence at once', async () => {
    const { golden, model, source } = setUp(revision)
    const weights = new ModelWeights(device, model, 'weights')
    const span = { first: 0, end: model.layers }
    await weights.loadBlocks(source, span)
    const blocks = new CachedSpan(weights)
    let start = 0
    for (const ids of golden.ids) {
      const count = ids.length - 1
      const cache = await SequenceCache.create(device, model, span, 32)
      const context = model.prompts!.context(ids, 'read')
      const [entering, expected] = await Promise.all(
        [0, model.layers].map(async (layer) => await sliceRows(device, decodeTensor(golden.hidden[layer]!), start, start + count))
      )
      expect(relativeError(await values(await blocks.forward(entering!, [{ cache, count, context }], span)), await values(expected!)))
        .toBeLessThan(1e-5)
      cache.free()
      start += count
    }
    weights.free()
  })
})

describe('CachedSpan of a model that reads prompts in both directions', () => {
  /** Seven rows, of which the first three are a context, and what a full pass makes of them. */
  async function passOf (config: Config) {
    const model = modelOf(config)
    const all = { first: 0, end: model.layers }
    const trained = await TrainableSpan.load(
      device,
      model,
      memorySource(baseWeights({ seed: 'prompts', shapes: shapesOf(config) })),
      all,
      'weights'
    )
    const numbers = decodeTensor(readChatGLMGolden('130528').hidden[0]!).data as Float32Array
    const entering = float32([7, model.hiddenSize], numbers.slice(0, 7 * model.hiddenSize))
    const context = { length: 3, maskPosition: 2 }
    const { hidden: leaving } = await trained.forward({ hidden: entering, lengths: [7], contexts: [context] }, { keepResiduals: false })
    return {
      model,
      all,
      blocks: new CachedSpan(trained.weights),
      entering: async (from: number, to: number) => await sliceRows(device, entering, from, to),
      leaving: async (from: number, to: number) => await values(await sliceRows(device, leaving, from, to)),
      rowsOf: (cache: SequenceCache, count: number) => ({ cache, count, context })
    }
  }

  it.each([16, 12])('computes what a full pass does with heads of %i elements, prompts beside single rows', async (headSize) => {
    const { model, all, blocks, entering, leaving, rowsOf } = await passOf({
      ...readChatGLMGolden('130528').config,
      hidden_size: 2 * headSize,
      num_attention_heads: 2
    })
    const [first, second] = [await SequenceCache.create(device, model, all, 8), await SequenceCache.create(device, model, all, 8)]
    await blocks.forward(await entering(0, 5), [rowsOf(first, 5)], all)
    first.length = 5
    const joined = await concatRows(device, [await entering(5, 6), await entering(0, 4)])
    const together = await values(await blocks.forward(joined, [rowsOf(first, 1), rowsOf(second, 4)], all))
    expect(relativeError(together, Float32Array.of(...await leaving(5, 6), ...await leaving(0, 4)))).toBeLessThan(1e-5)
    first.length = 6
    second.length = 4
    const later = await concatRows(device, [await entering(6, 7), await entering(4, 6)])
    const after = await values(await blocks.forward(later, [rowsOf(first, 1), rowsOf(second, 2)], all))
    expect(relativeError(after, Float32Array.of(...await leaving(6, 7), ...await leaving(4, 6)))).toBeLessThan(1e-5)
  })

  it('takes prompts and single rows in any order with the same programs', async () => {
    const { model, all, blocks, entering, rowsOf } = await passOf({ ...readChatGLMGolden('130528').config, num_layers: 2 })
    const caches = [await SequenceCache.create(device, model, all, 8), await SequenceCache.create(device, model, all, 8)]
    const compile = vi.spyOn(device, 'compile')
    const compiledFor = async (lengths: readonly number[]): Promise<number> => {
      compile.mockClear()
      const counts = lengths.map((length) => length === 0 ? 4 : 1)
      const rows = await concatRows(device, await Promise.all(counts.map(async (count) => await entering(0, count))))
      for (const [i, cache] of caches.entries()) cache.length = lengths[i]!
      await blocks.forward(rows, caches.map((cache, i) => rowsOf(cache, counts[i]!)), all)
      return compile.mock.calls.filter(([{ name }]) => name.startsWith('cached')).length
    }
    expect(await compiledFor([0, 0])).toBe(1)
    expect(await compiledFor([4, 0])).toBe(0)
    expect(await compiledFor([0, 4])).toBe(0)
    expect(await compiledFor([4, 4])).toBe(1)
    compile.mockRestore()
  })

  it('refuses a prompt in pieces, and rows without their context', async () => {
    const { golden, model, source } = setUp('130528')
    const weights = new ModelWeights(device, model, 'weights')
    const span = { first: 0, end: 1 }
    await weights.loadBlocks(source, span)
    const cache = await SequenceCache.create(device, model, span, 32)
    const [blocks, rows] = [new CachedSpan(weights), await sliceRows(device, decodeTensor(golden.hidden[0]!), 0, 4)]
    await expect(blocks.forward(rows, [{ cache, count: 4 }], span)).rejects.toThrow('context')
    await expect(blocks.forward(rows, [{ cache, count: 4, context: { length: 4, maskPosition: 3 } }], span)).rejects.toThrow('does not fit')
    cache.length = 2
    await expect(blocks.forward(rows, [{ cache, count: 4, context: { length: 4, maskPosition: 3 } }], span)).rejects.toThrow(
      'within their context'
    )
    cache.free()
    weights.free()
  })

  it('refuses a prompt without its end', async () => {
    const { model, source } = setUp('130528')
    const generator = await LocalGenerator.load(device, model, source)
    await expect(generator.generate([1, 2, 3], argmax, { maxTokens: 1 }).next()).rejects.toThrow(PromptError)
    generator.free()
  })
})
