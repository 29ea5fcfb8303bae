import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { readPeftAdapter, type PeftAdapter } from '../../../src/model/checkpoint/peft.ts'
import { modelOf } from '../../../src/model/families/index.ts'
import { importedSettings } from '../../../src/model/training/initial-adapter.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { readModelGolden } from '../../helpers/golden.ts'

const model = modelOf(readModelGolden('llama/gqa').config)
const NAME = 'base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight'

let adapter: PeftAdapter
beforeAll(async () => { adapter = await readPeftAdapter(fileURLToPath(new URL('../../reference/peft-adapter', import.meta.url))) })

function changed (change: (tensors: Map<string, Tensor>) => void): PeftAdapter {
  const tensors = new Map(adapter.tensors)
  change(tensors)
  return { ...adapter, tensors }
}

describe('an adapter to start from', () => {
  it('has its settings in the model\'s words', () => {
    expect(importedSettings(model, adapter, {})).toEqual({ r: 3, alpha: 6, rslora: false, targets: ['q_proj', 'v_proj', 'down_proj'] })
  })

  it('needs no tensors for blocks that are trained whole', () => {
    const without = changed((tensors) => { for (const name of tensors.keys()) if (name.includes('.layers.1.')) tensors.delete(name) })
    expect(importedSettings(model, without, { blocks: [1] }).targets).toEqual(['q_proj', 'v_proj', 'down_proj'])
    expect(() => importedSettings(model, adapter, { blocks: [1] })).toThrow('has no place in the model')
  })

  it('is refused with biases', () => {
    expect(() => importedSettings(model, { ...adapter, bias: 'all' }, {})).toThrow('bias: all')
  })

  it('is refused with modules of the model itself', () => {
    expect(() => importedSettings(model, { ...adapter, modulesToSave: ['model.layers.0.mlp.up_proj'] }, {})).toThrow(
      'modules_to_save: model.layers.0.mlp.up_proj'
    )
  })

  it.each([
    ['a tensor is missing', (changedBy) => changedBy.delete(NAME), `lacks ${NAME}`],
    [
      'a tensor has another shape',
      (changedBy) => changedBy.set(NAME, float32([3, 8], Array(24).fill(0))),
      `${NAME} is [3, 8], and the model needs [3, 32]`
    ],
    [
      'a tensor is of a block too many',
      (changedBy) => changedBy.set(NAME.replace('.1.', '.9.'), changedBy.get(NAME)!),
      'layers.9.self_attn.q_proj.lora_A.weight has no place'
    ],
    [
      'a tensor is of no block',
      (changedBy) => changedBy.set('base_model.model.lm_head.lora_A.weight', changedBy.get(NAME)!),
      'adapts no module'
    ],
    ['a value is not finite', (changedBy) => changedBy.set(NAME, float32([3, 32], Array(96).fill(NaN))), 'not finite']
  ] as ReadonlyArray<readonly [string, (tensors: Map<string, Tensor>) => unknown, string]>)('is refused where %s', (_, change, message) => {
    expect(() => importedSettings(model, changed(change), {})).toThrow(message)
  })
})
