import { expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { baseWeights, decodeTensor, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import type { Subject } from '../suite.ts'

/** Less than this could be float32's own rounding. */
const VISIBLE = 2e-5

export function rounding ({ device }: Subject): void {
  it('rounds what products take to float16, while adapters stay float32', async () => {
    const golden = readModelGolden('llama/gqa')
    const model = modelOf(golden.config)
    const span = await TrainableSpan.load(device(), model, memorySource(baseWeights(golden)), { first: 0, end: model.layers }, {
      ...golden.lora,
      dropout: 0,
      rslora: false,
      seed: ''
    })
    await span.weights.setTrained(loraWeights(golden))
    const { hidden } = await span.forward({ hidden: decodeTensor(golden.loraHidden[0]!), lengths: golden.ids.map((ids) => ids.length) }, {
      keepResiduals: false
    })
    const { data } = await device().download(hidden)
    expect(relativeError(data as Float32Array, decodeTensor(golden.loraHidden[model.layers]!).data as Float32Array)).toBeGreaterThan(
      VISIBLE
    )
    const types = Object.entries(span.weights.blockInputs(0)).map(([name, { dtype }]) => [name, dtype])
    expect(types).toContainEqual(['self_attn.q_proj.weight', 'float16'])
    expect(types.filter(([name]) => name!.includes('lora') || name!.includes('norm')).every(([, dtype]) => dtype === 'float32')).toBe(true)
    device().free(hidden)
    span.free()
  })
}
