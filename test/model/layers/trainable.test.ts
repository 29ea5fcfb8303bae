import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { peftBiasName } from '../../../src/model/checkpoint/peft.ts'
import { modelOf } from '../../../src/model/families/index.ts'
import { accumulate } from '../../../src/model/layers/gradient-sum.ts'
import { checkTrainable, trainedShapes, type AdapterTraining, type TrainedBiases } from '../../../src/model/layers/trainable.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../../src/model/training/client-model.ts'
import {
  baseWeights,
  decodeTensor,
  formulaLora,
  readGolden,
  relativeError,
  type EncodedTensor,
  type LoraSettings
} from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

/** Gradients of what PyTorch trains (test/reference/trainable_golden.py). */
interface TrainableGolden {
  readonly seed: string
  readonly config: Readonly<Record<string, unknown>>
  readonly shapes: Readonly<Record<string, readonly number[]>>
  readonly lora: LoraSettings
  /** The block that is trained whole. */
  readonly whole: number
  readonly ids: number[][]
  readonly loss: number
  /** What PEFT trains. */
  readonly biases: Readonly<Record<TrainedBiases, readonly string[]>>
  /** Under which names PEFT saves them. */
  readonly saved: Readonly<Record<TrainedBiases, readonly string[]>>
  readonly gradients: Readonly<Record<string, EncodedTensor>>
}

const golden = readGolden<TrainableGolden>('trainable.json')
const model = modelOf(golden.config)
const all = { first: 0, end: model.layers }
const adapters: AdapterTraining = { ...golden.lora, dropout: 0, rslora: false, seed: 'test' }

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

describe('what is trained', () => {
  it.each(['none', 'lora_only', 'all'] as const)('has the gradients that PyTorch has, with a whole block and biases %s', async (bias) => {
    const trainable = { ...adapters, blocks: [golden.whole], bias }
    const { bottom, top, weights } = await loadClientModel(
      device,
      model,
      memorySource(baseWeights(golden)),
      { inputBlocks: 2, outputBlocks: 1 },
      trainable
    )
    const lora = [...weights.trained.keys()].filter((name) => name.includes('.lora_'))
    await weights.setTrained(
      new Map(lora.map((name) => [name, formulaLora(golden.seed, `model.layers.${name}`, weights.trained.get(name)!.shape)]))
    )

    const { hidden, residuals } = await bottom.forward(golden.ids, { keepResiduals: true })
    const { lossSum, gradient, gradients } = await top.train(
      { hidden, lengths: golden.ids.map(({ length }) => length) },
      golden.ids.map((ids) => [...ids.slice(1), -100])
    )
    await accumulate(device, gradients, await bottom.backward(residuals!, gradient))

    expect(lossSum).toBeCloseTo(golden.loss, 3)
    const ofBlock = Object.keys(golden.gradients).filter((name) => name.includes(`.layers.${golden.whole}.`))
    expect([...gradients.keys()].sort()).toEqual([...new Set([...lora, ...ofBlock, ...golden.biases[bias]])].sort())
    expect([...weights.trained.keys()].sort()).toEqual([...gradients.keys()].sort())
    for (const [name, value] of gradients) {
      expect(
        relativeError((await device.download(value)).data as Float32Array, decodeTensor(golden.gradients[name]!).data as Float32Array),
        name
      ).toBeLessThan(3e-5)
    }
    weights.free()
  })

  it('is the biases that PEFT trains', () => {
    const biases = (bias: TrainedBiases): string[] =>
      trainedShapes(model, { ...adapters, bias }, all).map(({ name }) => name).filter((name) => name.endsWith('.bias'))
    const adapted = (name: string): boolean => golden.lora.targets.some((target) => name.endsWith(`${target}.bias`))
    expect(biases('all').sort()).toEqual([...golden.biases.all].sort())
    // In the golden model one block has no adapters, and so none of these.
    expect(biases('lora_only').filter((name) => !name.includes(`.layers.${golden.whole}.`)).sort()).toEqual(
      [...golden.biases.lora_only].sort()
    )
    expect(biases('lora_only').every(adapted)).toBe(true)
    expect(biases('none')).toEqual([])
  })

  it.each(['lora_only', 'all'] as const)('is saved under the names that PEFT saves it under: %s', (bias) => {
    const isAdapted = (name: string): boolean =>
      !name.includes(`.layers.${golden.whole}.`) && golden.lora.targets.some((target) => name.endsWith(`${target}.bias`))
    expect(golden.biases[bias].map((name) => peftBiasName(name, isAdapted(name))).sort()).toEqual([...golden.saved[bias]].sort())
  })

  it('has the shapes of the tensors themselves', async () => {
    const trainable = { ...adapters, blocks: [golden.whole], bias: 'all' as const }
    const { weights } = await loadClientModel(
      device,
      model,
      memorySource(baseWeights(golden)),
      { inputBlocks: 0, outputBlocks: 3 },
      trainable
    )
    const shapes = trainedShapes(model, trainable, all).map(({ name, shape }) => [name, shape])
    expect(shapes.sort()).toEqual([...weights.trained].map(([name, { shape }]) => [name, [...shape]]).sort())
    weights.free()
  })

  it('is refused where the model lacks it', () => {
    expect(() => { checkTrainable(model, { ...adapters, blocks: [3] }) }).toThrow('no block 3')
    const plain = modelOf({ ...golden.config, attention_bias: false, mlp_bias: false })
    expect(() => { checkTrainable(plain, { ...adapters, bias: 'all' }) }).toThrow('no biases')
    expect(() => { checkTrainable(plain, { ...adapters, blocks: [0, 1, 2] }) }).not.toThrow()
  })
})
