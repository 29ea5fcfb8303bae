import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { LocalGenerator } from '../../src/model/generation/local-generator.ts'
import { argmax } from '../../src/model/generation/sampling.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { fromClient } from '../../src/protocols/generate/messages.ts'
import { float32 } from '../../src/tensor.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { Attacker, refusalOf } from './attacker.ts'
import { startFederation, type TestFederation } from './helpers.ts'

const CONFIG = { architectures: ['MistralForCausalLM'], model_type: 'mistral', sliding_window: 8, max_position_embeddings: 2048 }
const MIDDLE = { first: 1, end: 4 }
const HIDDEN = 16
/** Keys and values of three blocks with one head of 8: a window and a run. Those of 1200 positions would take 230,400. */
const SEQUENCE_BYTES = 3 * 2 * 8 * (8 + 512) * 4

describe('generation with a model of windows', { timeout: 60_000 }, () => {
  let root: string
  let path: string
  let federation: TestFederation
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-windows-'))
    path = join(root, 'model')
    await writeTinyModel(path, CONFIG)
    federation = await startFederation({
      model: path, clients: [{ inputBlocks: 1, outputBlocks: 1 }, { inputBlocks: 1, outputBlocks: 1 }],
      charter: { cacheBytes: 2 * SEQUENCE_BYTES, inputBlocks: { min: 1, max: 1 }, outputBlocks: { min: 1, max: 1 } }
    })
  }, 60_000)
  afterAll(async () => {
    await federation.stop()
    await rm(root, { recursive: true, force: true })
  })

  it('gives long texts what one machine does, in the room of windows', async () => {
    const device = await openDevice('cpu', { threads: 1 })
    const directory = await openModelDirectory(path)
    const generator = await LocalGenerator.load(device, modelOf(directory.config), directory)
    // Read in three runs; and outgrowing the room token by token.
    const prompts = [1100, 508].map((length) => [1, ...Array.from({ length }, (_, i) => 3 + (7 * i + i * i) % 29)])
    const expected: number[][] = []
    for (const prompt of prompts) {
      const ids: number[] = []
      for await (const id of generator.generate(prompt, argmax, { maxTokens: 20 })) ids.push(id)
      expected.push(ids)
    }
    await device.close()
    const results = await Promise.all(
      federation.clients.map(async (client, i) => await client.generate({ ids: prompts[i], maxTokens: 20 }))
    )
    expect(results.map(({ ids }) => ids)).toEqual(expected)
  })

  it.each([
    ['more rows at once than windows have room for', [[0, 513]]],
    ['rows that see what is forgotten', [[0, 512], [512, 100], [10, 1]]]
  ])('refuses %s', async (_, runs) => {
    const attacker = await Attacker.join(federation, `attacker-of-${runs.length}`)
    const channel = await attacker.generation()
    await channel.send(fromClient({ case: 'begin', value: { ...MIDDLE, capacity: 1200 } }))
    for (const [position, count] of runs as Array<[number, number]>) {
      await channel.send(fromClient({ case: 'rows', value: { position, count } }), [
        float32([count, HIDDEN], new Float32Array(count * HIDDEN).fill(0.1))
      ])
    }
    expect(await refusalOf(channel)).toBe('E_BAD_MESSAGE')
  })
})
