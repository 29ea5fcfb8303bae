import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../../src/model/families/index.ts'
import { CachedClientModel } from '../../../src/model/generation/cached-client-model.ts'
import { CachedSpan } from '../../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../../src/model/generation/kv-cache.ts'
import { LocalGenerator } from '../../../src/model/generation/local-generator.ts'
import { argmax } from '../../../src/model/generation/sampling.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../../src/model/training/client-model.ts'
import type { Tensor } from '../../../src/tensor.ts'
import { dataPath, hasData } from '../../helpers/data.ts'
import { computed } from './computed.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const BOS = 1

describe.skipIf(!hasData('stories260K-hf'))('greedy generation with stories260K', () => {
  const expectedIds = () => JSON.parse(readFileSync(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[]

  it('gives the published sample on one machine', async () => {
    const directory = await openModelDirectory(dataPath('stories260K-hf'))
    const generator = await LocalGenerator.load(device, modelOf(directory.config), directory)
    const ids: number[] = []
    for await (const id of generator.generate([BOS], argmax, { maxTokens: 256 })) ids.push(id)
    const expected = expectedIds()
    expect([BOS, ...ids].slice(0, expected.length)).toEqual(expected)
    generator.free()
  })

  it.each([[1, 1], [0, 0]])(
    'goes on with the likeliest token at once, or takes it back, cut as %i | … | %i',
    async (inputBlocks, outputBlocks) => {
      const directory = await openModelDirectory(dataPath('stories260K-hf'))
      const model = modelOf(directory.config)
      const ends = await loadClientModel(device, model, directory, { inputBlocks, outputBlocks }, 'weights')
      const client = await CachedClientModel.create(ends.weights, { inputBlocks, outputBlocks }, 8)
      const up = await computed(device, await client.embed([BOS]))
      // Without the middle the rows are not the model's, but they are rows.
      const { logits, id, release: { tensors: [guessed] } } = await client.logitsAndNext(up, 1, async ({ calls, output }) => (
        { calls, also: [], released: (results) => ({ tensors: [results[output] as Tensor], clippedFraction: 0 }) }
      ))
      expect(id).toBe(argmax(logits))
      client.rewind(client.length)
      const other = await computed(device, await client.embed([id + 1]))
      client.rewind(client.length)
      const again = await computed(device, await client.embed([id]))
      expect((await device.download(again)).data).toEqual(guessed!.data)
      expect((await device.download(other)).data).not.toEqual(guessed!.data)
      device.free(other, again)
      client.free()
      ends.weights.free()
    }
  )

  it.each([[1, 1], [2, 1], [1, 2], [0, 0]])('gives it cut as %i | … | %i', async (inputBlocks, outputBlocks) => {
    const directory = await openModelDirectory(dataPath('stories260K-hf'))
    const model = modelOf(directory.config)
    const before = await device.memory()
    const ends = await loadClientModel(device, model, directory, { inputBlocks, outputBlocks }, 'weights')
    const client = await CachedClientModel.create(ends.weights, { inputBlocks, outputBlocks }, 257)
    const middle = new ModelWeights(device, model, 'weights')
    const span = { first: inputBlocks, end: model.layers - outputBlocks }
    await middle.loadBlocks(directory, span)
    const server = new CachedSpan(middle)
    const cache = await SequenceCache.create(device, model, span, 257)

    const expected = expectedIds()
    const ids = [BOS]
    while (ids.length < expected.length) {
      const up = await computed(device, await client.embed(ids.slice(client.length)))
      const across = await server.forward(up, [{ cache, count: 1 }], span)
      cache.length++
      device.free(up)
      ids.push(argmax(await client.logits(across, across.shape[0]!)))
    }
    expect(ids).toEqual(expected)
    cache.free()
    client.free()
    ends.weights.free()
    middle.free()
    expect((await device.memory()).heldBytes).toBe(before.heldBytes)
  })
})
