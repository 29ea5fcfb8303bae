import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../../src/model/families/index.ts'
import type { AdapterSettings } from '../../../src/model/layers/lora.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { LocalTrainer } from '../../../src/model/training/local-trainer.ts'
import { answersOf } from '../../helpers/chatglm.ts'
import { dataPath, hasData } from '../../helpers/data.ts'
import {
  baseWeights,
  decodeTensor,
  goldenFamilies,
  readModelGolden,
  readStepsGolden,
  readTrainGolden,
  relativeError
} from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const batchOf = (sequences: ReadonlyArray<readonly number[]>) => ({
  ids: sequences.map((ids) => ids.slice(0, -1)),
  targets: sequences.map((ids) => ids.slice(1))
})

describe.skipIf(!hasData('stories260K-hf'))('LocalTrainer on stories260K', () => {
  it('follows PyTorch through 20 rounds of LoRA', async () => {
    const golden = readTrainGolden()
    const directory = await openModelDirectory(dataPath('stories260K-hf'))
    const trainable: AdapterSettings = { ...golden.lora, dropout: 0, rslora: false, seed: golden.seed }
    const { lr, betas: [beta1, beta2], eps, weightDecay } = golden.adamw
    const trainer = await LocalTrainer.load(device, modelOf(directory.config), directory, {
      trainable,
      optimizer: { beta1, beta2, epsilon: eps, weightDecay }
    })
    const heldOut = batchOf(golden.heldOut)
    const mean = ({ lossSum, countedTokens }: { lossSum: number, countedTokens: number }): number => lossSum / countedTokens
    expect(mean(await trainer.evaluate(heldOut))).toBeCloseTo(golden.heldOutBefore, 4)
    for (const [round, clients] of golden.ids.entries()) {
      const loss = await trainer.step(clients.map(batchOf), { learningRate: lr })
      expect(mean(loss)).toBeCloseTo(golden.losses[round]!, 3)
    }
    expect(mean(await trainer.evaluate(heldOut))).toBeCloseTo(golden.heldOutAfter, 3)
    for (const [name, value] of await trainer.values()) {
      expect(relativeError(value.data as Float32Array, decodeTensor(golden.final[name]!).data as Float32Array), name).toBeLessThan(1e-4)
    }
    trainer.free()
  })
})

describe.each(goldenFamilies)('LocalTrainer on a small %s', (family) => {
  it('ends 50 AdamW steps of LoRA where PyTorch does', async () => {
    const golden = readStepsGolden(family)
    const base = readModelGolden(golden.base)
    const trainable: AdapterSettings = { ...golden.lora, dropout: 0, rslora: false, seed: golden.seed }
    const { lr, betas: [beta1, beta2], eps, weightDecay } = golden.adamw
    const trainer = await LocalTrainer.load(device, modelOf(base.config), memorySource(baseWeights(base)), {
      trainable,
      optimizer: { beta1, beta2, epsilon: eps, weightDecay }
    })
    const losses: number[] = []
    for (let step = 0; step < golden.steps; step++) {
      const { lossSum, countedTokens } = await trainer.step([batchOf(golden.batches[step % golden.batches.length]!)], { learningRate: lr })
      losses.push(lossSum / countedTokens)
    }
    expect(losses[0]).toBeCloseTo(golden.firstLoss, 5)
    expect(losses.at(-1)).toBeCloseTo(golden.lastLoss, 4)
    for (const [name, value] of await trainer.values()) {
      expect(relativeError(value.data as Float32Array, decodeTensor(golden.final[name]!).data as Float32Array), name).toBeLessThan(1e-4)
    }
    trainer.free()
  })
})

describe('LocalTrainer of all weights', () => {
  const names = [
    'llama/gqa',
    'llama/mqa-tied',
    'llama/mlp-bias',
    'qwen3/bias-window-tied',
    'glm4/plain',
    'chatglm2/linear-bias',
    'chatglm/130528'
  ]
  it.each(names)('brings the loss of %s down, and has the gradient that finite differences see', async (name) => {
    const golden = readModelGolden(name)
    const model = modelOf(golden.config)
    const optimizer = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
    const batch = model.prompts === undefined ? batchOf(golden.ids) : answersOf(golden.ids)
    const trainer = await LocalTrainer.load(device, model, memorySource(baseWeights(golden)), { trainable: 'weights', optimizer })
    const first = await trainer.step([batch], { learningRate: 3e-3 })
    for (let i = 0; i < 8; i++) await trainer.step([batch], { learningRate: 3e-3 })
    expect((await trainer.evaluate(batch)).lossSum).toBeLessThan(first.lossSum * 0.6)

    // A first AdamW step moves each weight by the learning rate against the sign of its gradient: along it, the loss falls by rate * sum
    // |gradient|.
    const rate = 1e-5
    const fresh = await LocalTrainer.load(device, model, memorySource(baseWeights(golden)), { trainable: 'weights', optimizer })
    const start = await fresh.parameters.values()
    await fresh.step([batch], { learningRate: rate })
    const state = await fresh.parameters.state()
    let expected = 0
    for (const parameter of start.keys())
      for (const m of state.get(`${parameter}.m`)!.data as Float32Array) expected += Math.abs(m) / 0.1 * rate
    const { lossSum, countedTokens } = await fresh.evaluate(batch)
    const fell = (first.lossSum - lossSum) / countedTokens
    expect(fell / expected).toBeGreaterThan(0.97)
    expect(fell / expected).toBeLessThan(1.03)
    trainer.free()
    fresh.free()
  })
})
