import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory, type ModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf, type Model } from '../../src/model/families/index.ts'
import { LocalGenerator } from '../../src/model/generation/local-generator.ts'
import { argmax } from '../../src/model/generation/sampling.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { Batches } from '../../src/model/text/batches.ts'
import { loadDataset } from '../../src/model/text/dataset.ts'
import { loadTokenizer } from '../../src/model/text/load.ts'
import type { Tokenizer } from '../../src/model/text/tokenizer.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import * as generate from '../../src/protocols/generate/messages.ts'
import * as train from '../../src/protocols/train/messages.ts'
import { float32, type Tensor } from '../../src/tensor.ts'
import { writeTinyChatGLM } from '../helpers/chatglm.ts'
import { relativeError } from '../helpers/golden.ts'
import { Attacker, refusalOf } from './attacker.ts'
import { adapterTensors, startFederation, type ClientOptions, type TestFederation } from './helpers.ts'

const ROUNDS = 4
/** Of a tensor's largest value. */
const TOLERANCE = 1e-4
const HIDDEN = 32
const partitions: readonly ClientOptions[] = [{ inputBlocks: 0, outputBlocks: 0 }, { inputBlocks: 1, outputBlocks: 0 }, {
  inputBlocks: 1,
  outputBlocks: 1
}]
const targets = ['query_key_value', 'dense', 'dense_h_to_4h', 'dense_4h_to_h']
const lora = { r: 4, alpha: 8, rslora: false, seed: '2d' }
/** An epsilon above rounding, so that rounding does not decide the direction of a step. */
const adamw = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0.01 }
const LEARNING_RATE = 5e-3

/** Each client's records: prompts and answers of different lengths, a conversation, and a text without a prompt. */
const records = [
  [{ prompt: 'the river', completion: ' carries a boat' }, { prompt: 'a small old stone bridge', completion: ' falls' }],
  [{ messages: [{ role: 'user', content: 'why?' }, { role: 'assistant', content: 'it rains\nall day' }] }, { text: 'quiet mills' }],
  [{ instruction: 'name a boat', output: 'the old one' }, { prompt: '\n', completion: 'and past the mills' }]
]

describe('a federation of the original ChatGLM', { timeout: 120_000 }, () => {
  let root: string
  let path: string
  let data: string[]
  let device: Device
  let directory: ModelDirectory
  let model: Model
  let tokenizer: Tokenizer
  let federation: TestFederation

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-chatglm-'))
    path = join(root, 'model')
    await writeTinyChatGLM(path)
    data = await Promise.all(records.map(async (own, client) => {
      const file = join(root, `${client}.jsonl`)
      await writeFile(file, own.map((record) => `${JSON.stringify(record)}\n`).join(''))
      return file
    }))
    device = await openDevice('cpu', { threads: 1 })
    directory = await openModelDirectory(path)
    model = modelOf(directory.config)
    tokenizer = await loadTokenizer(path)
    federation = await startFederation({
      model: path,
      clients: partitions,
      charter: {
        inputBlocks: { min: 0, max: 1 },
        outputBlocks: { min: 0, max: 1 },
        minClients: partitions.length,
        seed: lora.seed,
        loraR: lora.r,
        loraAlpha: lora.alpha,
        loraTargets: targets,
        learningRate: LEARNING_RATE,
        weightDecay: adamw.weightDecay,
        epsilon: adamw.epsilon
      }
    })
  }, 120_000)
  afterAll(async () => {
    await federation.stop()
    await device.close()
    await rm(root, { recursive: true, force: true })
  })

  /** A client's only batch: all of its records. */
  const batchOf = async (client: number) => {
    const { examples, badLineCount } = await loadDataset(data[client]!, tokenizer, { lossOn: 'completion' })
    expect(badLineCount).toBe(0)
    return new Batches(examples, { seed: '0', sequences: 2, mode: 'padded' }).at({ epoch: 0, index: 0 }).batch
  }

  it('generates what one machine generates, with prompts of different lengths at once', async () => {
    const prompts = ['the river carries', 'a', 'old stone bridges\nand  mills'].map((text) => tokenizer.encode(text))
    const generator = await LocalGenerator.load(device, model, directory)
    const expected: number[][] = []
    for (const prompt of prompts) expected.push(await Array.fromAsync(generator.generate(prompt, argmax, { maxTokens: 16 })))
    generator.free()
    const results = await Promise.all(
      federation.clients.map(async (client, i) => await client.generate({ ids: prompts[i]!, maxTokens: 16 }))
    )
    expect(results.map(({ ids }) => ids)).toEqual(expected)
  })

  it('continues text, closed by [gMASK] and sop', async () => {
    const [client] = federation.clients
    const [text, ids] = await Promise.all(
      [{ prompt: 'the river' }, { ids: tokenizer.encode('the river') }].map(async (input) =>
        await client!.generate({ ...input, maxTokens: 5 })
      )
    )
    expect(text!.ids).toEqual(ids!.ids)
  })

  it('trains and evaluates as one machine does, over partitions 0|3|0, 1|2|0 and 1|1|1', async () => {
    const batches = await Promise.all(partitions.map(async (_, client) => await batchOf(client)))
    const trainer = await LocalTrainer.load(device, model, directory, { trainable: { ...lora, dropout: 0, targets }, optimizer: adamw })
    const losses: number[] = []
    for (let round = 0; round < ROUNDS; round++) {
      const { lossSum } = await trainer.step(batches, { learningRate: LEARNING_RATE })
      losses.push(lossSum)
    }
    const events = await Promise.all(
      federation.clients.map(async (client, i) => await client.train({ data: data[i]!, rounds: ROUNDS, sequences: 2, maxTokens: 48 }))
    )
    for (const [round, expected] of losses.entries()) {
      const lossSum = events.reduce((sum, own) => sum + own[round]!.loss * own[round]!.tokens, 0)
      expect(lossSum / expected).toBeCloseTo(1, 5)
    }
    const expected = await trainer.values()
    const adapter = await federation.clients[2]!.export(federation.path('adapter'))
    expect([...adapter.tensors.keys()]).toContain('base_model.model.transformer.layers.1.attention.query_key_value.lora_A.weight')
    const exported = adapterTensors(adapter)
    expect([...exported.keys()].sort()).toEqual([...expected.keys()].sort())
    for (const [name, value] of expected)
      expect(relativeError(exported.get(name)!.data as Float32Array, value.data as Float32Array), name).toBeLessThan(TOLERANCE)

    await federation.server.ask('export', { out: federation.path('merged'), merged: true })
    const merged = await LocalTrainer.load(device, model, await openModelDirectory(federation.path('merged')), {
      trainable: 'weights',
      optimizer: adamw
    })
    expect((await merged.evaluate(batches[0]!)).lossSum / (await trainer.evaluate(batches[0]!)).lossSum).toBeCloseTo(1, 5)
    merged.free()

    for (const [i, client] of federation.clients.entries()) {
      const { lossSum, countedTokens } = await trainer.evaluate(batches[i]!)
      expect((await client.evaluate({ data: data[i]!, sequences: 2, maxTokens: 48 })).loss / (lossSum / countedTokens)).toBeCloseTo(1, 4)
    }
    trainer.free()
  })

  it('passes over a record whose prompt ends before its mask token', async () => {
    const [good, mixed] = [join(root, 'good.jsonl'), join(root, 'mixed.jsonl')]
    const record = JSON.stringify({ prompt: 'the river', completion: ' falls' })
    await writeFile(good, `${record}\n`)
    await writeFile(mixed, `${JSON.stringify({ prompt: 'the <sop> river', completion: ' carries' })}\n${record}\n`)
    const expected = await federation.clients[0]!.evaluate({ data: good })
    expect(await federation.clients[0]!.evaluate({ data: mixed })).toMatchObject({ loss: expected.loss, tokens: expected.tokens })
  })

  it('refuses to pack records', async () => {
    await expect(federation.clients[0]!.train({ data: data[0]!, rounds: 1, packing: 'packed' })).rejects.toThrow('cannot be packed')
  })

  it('refuses a prompt without its end', async () => {
    await expect(federation.clients[0]!.generate({ ids: [1, 2, 3], maxTokens: 1 })).rejects.toMatchObject({ code: 'E_PROMPT' })
  })

  describe('under attack', () => {
    let attacker: Attacker
    beforeAll(async () => { attacker = await Attacker.join(federation, 'attacker') })

    const rows = (count: number): Tensor => float32([count, HIDDEN], new Float32Array(count * HIDDEN).fill(0.1))
    const middle = { first: 0, end: 3 }

    it.each([
      ['no contexts', [4, 4], [], []],
      ['too few contexts', [4, 4], [2], [1]],
      ['too many contexts', [4], Array.from({ length: 100_000 }, () => 2), Array.from({ length: 100_000 }, () => 1)],
      ['a context without a mask position', [4], [2], []],
      ['a context longer than its sequence', [4], [5], [1]],
      ['a context without a row after it', [4], [4], [1]],
      ['an empty context', [4], [0], [0]],
      ['a context of absurd length', [4], [2 ** 32 - 1], [1]],
      ['a mask token after the context', [4], [2], [3]],
      ['a mask token at an absurd position', [4], [2], [2 ** 32 - 1]]
    ])('refuses on a training stream: %s', async (_, lengths, contextLengths, maskPositions) => {
      const channel = await attacker.training()
      await channel.send(train.fromClient({ case: 'evaluate', value: { request: 1, middle, lengths, contextLengths, maskPositions } }), [
        rows(lengths.reduce((a, b) => a + b))
      ]).catch(() => {})
      expect(await refusalOf(channel)).toBe('E_BAD_MESSAGE')
    })

    it.each([
      ['no context', [{ position: 0, count: 4 }]],
      ['a prompt in pieces', [{ position: 0, count: 4, contextLength: 6, maskPosition: 1 }]],
      ['rows within a context', [{ position: 0, count: 4, contextLength: 3, maskPosition: 1 }, {
        position: 2,
        count: 2,
        contextLength: 3,
        maskPosition: 1
      }]],
      ['a context that grew', [{ position: 0, count: 4, contextLength: 3, maskPosition: 1 }, {
        position: 4,
        count: 1,
        contextLength: 2 ** 32 - 1,
        maskPosition: 1
      }]],
      ['a mask token at an absurd position', [{ position: 0, count: 4, contextLength: 3, maskPosition: 1 }, {
        position: 4,
        count: 1,
        contextLength: 3,
        maskPosition: 2 ** 32 - 1
      }]]
    ])('refuses on a generation stream: %s', async (_, requests) => {
      const channel = await attacker.generation()
      await channel.send(generate.fromClient({ case: 'begin', value: { ...middle, capacity: 16 } }))
      for (const value of requests) await channel.send(generate.fromClient({ case: 'rows', value }), [rows(value.count)]).catch(() => {})
      expect(await refusalOf(channel)).toBe('E_BAD_MESSAGE')
    })
  })
})
