import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { LocalGenerator } from '../../src/model/generation/local-generator.ts'
import { argmax } from '../../src/model/generation/sampling.ts'
import { adaptableModules } from '../../src/model/layers/lora.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import { readModelGolden, relativeError } from '../helpers/golden.ts'
import { writeExactData, writeExactModel } from './exact-data.ts'
import { adapterTensors, startFederation, type ClientOptions } from './helpers.ts'
import { batchOf } from './reference.ts'

const BOS = 1
const ROUNDS = 3
/** An epsilon above rounding, so that it does not decide the direction of a step. */
const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0 }
const LEARNING_RATE = 1e-2
const clients: readonly ClientOptions[] = [{ inputBlocks: 0, outputBlocks: 0 }, { inputBlocks: 1, outputBlocks: 0 }]

/** One sequence a client and round, of ids that follow from both. */
const sequenceOf = (
  client: number,
  round: number
): number[] => [BOS, ...Array.from({ length: 9 + 2 * client }, (_, i) => 2 + (7 * i + 11 * round + 5 * client) % 59)]

describe('a federation', { timeout: 60_000 }, () => {
  let root: string
  let device: Device
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-families-'))
    device = await openDevice('cpu', { threads: 1 })
  })
  afterAll(async () => {
    await device.close()
    await rm(root, { recursive: true, force: true })
  })

  it.each(['qwen3/bias-window-tied', 'glm4/plain', 'chatglm2/plain'])(
    'of %s trains as one machine does, at two partitions, and generates what it does',
    async (name) => {
      const path = join(root, name)
      const directory = await openModelDirectory(await writeExactModel(readModelGolden(name), path))
      const model = modelOf(directory.config)
      const trainable = { r: 2, alpha: 4, dropout: 0, rslora: false, seed: '07', targets: adaptableModules(model) }
      const charter = {
        seed: trainable.seed,
        loraR: trainable.r,
        loraAlpha: trainable.alpha,
        loraTargets: ['all-linear'],
        learningRate: LEARNING_RATE,
        epsilon: optimizer.epsilon,
        minClients: clients.length,
        inputBlocks: { min: 0, max: 1 },
        outputBlocks: { min: 0, max: 0 }
      }
      const federation = await startFederation({ model: path, charter, clients })
      onTestFinished(async () => {
        await federation.stop()
      })
      await Promise.all(federation.clients.map(async (client, index) => {
        const data = await writeExactData(
          federation.path(`${index}.jsonl`),
          Array.from({ length: ROUNDS }, (_, round) => [sequenceOf(index, round)])
        )
        await client.train({ data, rounds: ROUNDS, packing: 'padded', sequences: 1, maxTokens: 32 })
      }))
      const exported = adapterTensors(await federation.clients[0]!.export(federation.path('adapter')))

      const trainer = await LocalTrainer.load(device, model, directory, { trainable, optimizer })
      for (let round = 0; round < ROUNDS; round++)
        await trainer.step(clients.map((_, client) => batchOf([sequenceOf(client, round)])), { learningRate: LEARNING_RATE })
      const expected = await trainer.values()
      trainer.free()
      expect([...exported.keys()].sort()).toEqual([...expected.keys()].sort())
      for (const [parameter, { data }] of expected)
        expect(relativeError(exported.get(parameter)!.data as Float32Array, data as Float32Array), parameter).toBeLessThan(1e-4)

      const generator = await LocalGenerator.load(device, model, directory, trainable)
      await generator.weights.setTrained(expected)
      const ids: number[] = []
      for await (const id of generator.generate(sequenceOf(0, 0), argmax, { maxTokens: 12 }))
        ids.push(id)
      generator.free()
      for (const client of federation.clients)
        expect((await client.generate({ ids: sequenceOf(0, 0), maxTokens: 12 })).ids).toEqual(ids)
    }
  )
})
