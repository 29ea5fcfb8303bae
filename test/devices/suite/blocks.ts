import { expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import type { DeviceTensor } from '../../../src/model/runtime/device.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import {
  baseWeights,
  decodeTensor,
  goldenNames,
  loraWeights,
  readModelGolden,
  relativeError,
  type EncodedTensor
} from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import type { Subject } from '../suite.ts'

export function blocks ({ device, tolerance }: Subject): void {
  const expectNear = async (actual: DeviceTensor, expected: EncodedTensor, bound: number, what?: string): Promise<void> => {
    const { data } = await device().download(actual)
    expect(relativeError(data as Float32Array, decodeTensor(expected).data as Float32Array), what).toBeLessThan(bound)
  }

  it.each(goldenNames)('%s has the hidden states and gradients that PyTorch computes', async (name) => {
    const golden = readModelGolden(name)
    const model = modelOf(golden.config)
    const lengths = golden.ids.map((ids) => ids.length)
    const span = await TrainableSpan.load(device(), model, memorySource(baseWeights(golden)), { first: 0, end: model.layers }, {
      ...golden.lora,
      dropout: 0,
      rslora: false,
      seed: ''
    })
    await span.weights.setTrained(loraWeights(golden))
    for (let layer = 0; layer < model.layers; layer++) {
      const { hidden } = await span.forward({ hidden: decodeTensor(golden.loraHidden[layer]!), lengths }, {
        keepResiduals: false,
        first: layer,
        end: layer + 1
      })
      await expectNear(hidden, golden.loraHidden[layer + 1]!, tolerance.block, `block ${layer}`)
      device().free(hidden)
    }
    const { hidden, residuals } = await span.forward({ hidden: decodeTensor(golden.loraHidden[0]!), lengths }, { keepResiduals: true })
    await expectNear(hidden, golden.loraHidden[model.layers]!, tolerance.hidden)
    const { gradient, adapters } = await span.backward(residuals!, decodeTensor(golden.hiddenGradients[model.layers]!))
    await expectNear(gradient, golden.hiddenGradients[0]!, tolerance.gradient)
    expect([...adapters.keys()].sort()).toEqual(Object.keys(golden.gradients).sort())
    for (const [parameter, value] of adapters) await expectNear(value, golden.gradients[parameter]!, tolerance.gradient, parameter)
    device().free(hidden, gradient, ...adapters.values())
    span.free()
  })
}
