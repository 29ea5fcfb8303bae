import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { LocalGenerator } from '../../src/model/generation/local-generator.ts'
import { argmax } from '../../src/model/generation/sampling.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { loadTokenizer } from '../../src/model/text/load.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { writeTinyChatGLM } from '../helpers/chatglm.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import type { ClientOptions } from './helpers.ts'
import { startWorkers } from './workers.ts'

const TOKENS = 40

interface Case {
  readonly write: (path: string) => Promise<void>
  readonly client: ClientOptions
  readonly charter: Partial<CreateOptions>
  readonly prompt: (path: string) => Promise<number[]>
}

const cases: ReadonlyArray<readonly [string, Case]> = [
  ['a model of windows, with a prompt of three messages', {
    write: async (path) => {
      await writeTinyModel(path, {
        architectures: ['MistralForCausalLM'], model_type: 'mistral', sliding_window: 8, max_position_embeddings: 2048
      })
    },
    client: { inputBlocks: 1, outputBlocks: 1 },
    charter: { inputBlocks: { min: 1, max: 1 }, outputBlocks: { min: 1, max: 1 } },
    prompt: async () => await Promise.resolve([1, ...Array.from({ length: 1099 }, (_, i) => 3 + (7 * i + i * i) % 29)])
  }],
  ['a model that reads prompts in both directions', {
    write: writeTinyChatGLM,
    client: { inputBlocks: 1, outputBlocks: 0 },
    charter: { inputBlocks: { min: 0, max: 1 }, outputBlocks: { min: 0, max: 1 }, loraTargets: ['query_key_value'] },
    prompt: async (path) => (await loadTokenizer(path)).encode('old stone bridges\nand  mills')
  }],
  ['a model whose rotary base grows with the tokens of a message', {
    write: async (path) => {
      await writeTinyModel(path, { max_position_embeddings: 16, rope_scaling: { rope_type: 'dynamic', factor: 4 } })
    },
    client: { inputBlocks: 1, outputBlocks: 1 },
    charter: {},
    prompt: async () => await Promise.resolve([1, 5, 9, 4, 7, 11, 3, 20, 8, 14])
  }]
]

describe('a text over two servers, one of which is killed meanwhile, is what one machine makes of it', { timeout: 120_000 }, () => {
  it.each(cases)('with %s', async (_, { write, client, charter, prompt: promptOf }) => {
    const root = await mkdtemp(join(tmpdir(), 'midspan-routes-'))
    onTestFinished(async () => { await rm(root, { recursive: true, force: true }) })
    const path = join(root, 'model')
    await write(path)
    const prompt = await promptOf(path)
    const device = await openDevice('cpu', { threads: 1 })
    const directory = await openModelDirectory(path)
    const model = modelOf(directory.config)
    const generator = await LocalGenerator.load(device, model, directory)
    const expected = await Array.fromAsync(generator.generate(prompt, argmax, { maxTokens: TOKENS }))
    await device.close()

    const middle = { first: client.inputBlocks ?? 0, end: model.layers - (client.outputBlocks ?? 0) }
    const federation = await startWorkers({ model: path, charter, clients: [client] }, {
      founder: { first: middle.end - 1, end: middle.end },
      workers: [{ first: middle.first, end: middle.end - 1 }, { first: middle.first, end: middle.end - 1 }]
    })
    onTestFinished(async () => { await federation.stop() })
    let killing: Promise<void> | undefined
    let last: object = {}
    for await (const event of federation.clients[0]!.peer.events('generate', { ids: prompt, maxTokens: TOKENS })) {
      const { type } = event as { type: string }
      if (type === 'text') {
        killing ??= federation.workers.find(({ daemon }) => (daemon.status().generation?.sequences ?? 0) > 0)?.stop()
      }
      last = event
    }
    await killing
    expect(killing).toBeDefined()
    expect(last).toMatchObject({ ids: expected })
    const replayed = (last as { route: Array<{ replayedTokens: number }> }).route.map(({ replayedTokens }) => replayedTokens)
    expect(Math.max(...replayed)).toBeGreaterThanOrEqual(prompt.length)
  })
})
