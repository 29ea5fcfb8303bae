import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { LocalGenerator } from '../../../src/model/generation/local-generator.ts'
import type { AdapterSettings } from '../../../src/model/layers/lora.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { loadClientModel } from '../../../src/model/training/client-model.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { baseWeights, decodeTensor, goldenNames, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const values = async (value: DeviceTensor): Promise<ArrayLike<number>> => (await device.download(value)).data as Float32Array

/** A client's ends and the middle of a golden model, with its adapters. */
async function parted (name: string, inputBlocks: number, outputBlocks: number) {
  const golden = readModelGolden(name)
  const model = modelOf(golden.config)
  const source = memorySource(baseWeights(golden))
  const settings: AdapterSettings = { ...golden.lora, dropout: 0, rslora: false, seed: 'test' }
  const ends = await loadClientModel(device, model, source, { inputBlocks, outputBlocks }, settings)
  const middle = await TrainableSpan.load(device, model, source, { first: inputBlocks, end: model.layers - outputBlocks }, settings)
  const ids = golden.ids.map((sequence) => [...sequence])
  const lengths = ids.map((sequence) => sequence.length)
  const logits = async (): Promise<ArrayLike<number>> => {
    const up = await ends.bottom.forward(ids, { keepResiduals: false })
    const across = await middle.forward({ hidden: up.hidden, lengths }, { keepResiduals: false })
    const { data } = await ends.top.logits({ hidden: across.hidden, lengths }, ids.flat().map((_, row) => row))
    device.free(up.hidden, across.hidden)
    return data as Float32Array
  }
  const untrained = await logits()
  for (
    const { trained, setTrained } of [ends.weights, middle.weights].map((weights) => ({
      trained: weights.trained,
      setTrained: weights.setTrained.bind(weights)
    }))
  ) {
    await setTrained(new Map([...loraWeights(golden)].filter(([parameter]) => trained.has(parameter))))
  }
  return { golden, ends, middle, ids, lengths, logits, untrained, targets: ids.map((sequence) => [...sequence.slice(1), -100]) }
}

const cuts: ReadonlyArray<readonly [name: string, inputBlocks: number, outputBlocks: number]> = [
  ['llama/gqa', 1, 1],
  ['llama/gqa', 2, 1],
  ['llama/gqa', 0, 3],
  ['llama/mqa-tied', 1, 0],
  ['llama/mlp-bias', 0, 1],
  ['qwen2/window-tied', 1, 1],
  ['qwen2/layer-types-yarn', 2, 1],
  ['chatglm2/ratio-wide-heads', 1, 1],
  ...goldenNames.map((name) => [name, 0, 0] as const)
]

describe('ends and middle against PyTorch', () => {
  it.each(cuts)('%s cut as %i | … | %i has the loss and every gradient', async (name, inputBlocks, outputBlocks) => {
    const { golden, ends, middle, ids, lengths, logits, untrained, targets } = await parted(name, inputBlocks, outputBlocks)
    const before = await device.memory()
    const up = await ends.bottom.forward(ids, { keepResiduals: true })
    const across = await middle.forward({ hidden: up.hidden, lengths }, { keepResiduals: true })
    const { lossSum, countedTokens, gradient, gradients } = await ends.top.train({ hidden: across.hidden, lengths }, targets)
    const back = await middle.backward(across.residuals!, gradient)
    const down = await ends.bottom.backward(up.residuals!, back.gradient)

    expect(lossSum).toBeCloseTo(golden.loraLoss, 3)
    expect(countedTokens).toBe(ids.flat().length - ids.length)
    const all = new Map([...gradients, ...back.adapters, ...down])
    expect([...all.keys()].sort()).toEqual(Object.keys(golden.gradients).sort())
    for (const [parameter, value] of all)
      expect(relativeError(await values(value), decodeTensor(golden.gradients[parameter]!).data as Float32Array), parameter).toBeLessThan(
        3e-5
      )

    expect(await ends.top.evaluate({ hidden: across.hidden, lengths }, targets)).toEqual({
      lossSum: expect.closeTo(golden.loraLoss, 3) as number,
      countedTokens
    })
    expect(relativeError(untrained, decodeTensor(golden.logits).data as Float32Array)).toBeLessThan(1e-5)
    expect(relativeError(await logits(), decodeTensor(golden.loraLogits).data as Float32Array)).toBeLessThan(1e-5)
    device.free(up.hidden, across.hidden, gradient, back.gradient, ...all.values())
    expect((await device.memory()).heldBytes).toBe(before.heldBytes)
    ends.weights.free()
    middle.free()
  })

  it('counts only the rows that have a target, and none where none has', async () => {
    const { ends, middle, ids, lengths, targets } = await parted('llama/plain', 1, 1)
    const rows = { hidden: (await ends.bottom.forward(ids, { keepResiduals: false })).hidden, lengths }
    const only = targets.map((sequence, s) => sequence.map((target, i) => s === 0 && i === 2 ? target : -100))
    const none = targets.map((sequence) => sequence.map(() => -100))
    expect((await ends.top.train(rows, only)).countedTokens).toBe(1)
    const nothing = await ends.top.train(rows, none)
    expect(nothing).toMatchObject({ lossSum: 0, countedTokens: 0 })
    expect(Math.max(...await values(nothing.gradient) as Float32Array)).toBe(0)
    ends.weights.free()
    middle.free()
  })
})

it('a part of a model that cannot be loaded whole is not kept', async () => {
  const golden = readModelGolden('llama/plain')
  const model = modelOf(golden.config)
  const weights = baseWeights(golden)
  weights.delete(`model.layers.${model.layers - 1}.mlp.down_proj.weight`)
  const source = memorySource(weights)
  const { heldBytes } = await device.memory()
  await expect(loadClientModel(device, model, source, { inputBlocks: 1, outputBlocks: 1 }, 'weights')).rejects.toThrow(
    'mlp.down_proj.weight'
  )
  await expect(TrainableSpan.load(device, model, source, { first: 0, end: model.layers }, 'weights')).rejects.toThrow(
    'mlp.down_proj.weight'
  )
  await expect(LocalGenerator.load(device, model, source)).rejects.toThrow('mlp.down_proj.weight')
  expect((await device.memory()).heldBytes).toBe(heldBytes)
})

it('tokens that the model does not have are named, whether they are read or predicted', async () => {
  const golden = readModelGolden('llama/plain')
  const model = modelOf(golden.config)
  const { bottom, top, weights } = await loadClientModel(device, model, memorySource(baseWeights(golden)), {
    inputBlocks: 0,
    outputBlocks: 0
  }, {
    ...golden.lora,
    dropout: 0,
    rslora: false,
    seed: ''
  })
  const { vocabularySize } = model
  for (const id of [vocabularySize, -1]) {
    await expect(bottom.forward([[1, id]], { keepResiduals: false })).rejects.toMatchObject({
      code: 'E_VOCABULARY',
      message: `token ${id} is not in the model's vocabulary of ${vocabularySize}`
    })
    const { hidden } = await bottom.forward([[1, 2]], { keepResiduals: false })
    await expect(top.evaluate({ hidden, lengths: [2] }, [[1, id]])).rejects.toMatchObject({ code: 'E_VOCABULARY' })
    await expect(top.train({ hidden, lengths: [2] }, [[1, id]])).rejects.toMatchObject({ code: 'E_VOCABULARY' })
    device.free(hidden)
  }
  weights.free()
})
