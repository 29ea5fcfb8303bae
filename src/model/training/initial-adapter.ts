import { AdapterError } from '../checkpoint/errors.ts'
import { internalTensorName, peftTensorName, type PeftAdapter } from '../checkpoint/peft.ts'
import type { SafetensorsFile } from '../checkpoint/safetensors.ts'
import type { Model } from '../families/family.ts'
import { adaptableModules, type AdapterSettings } from '../layers/lora.ts'
import { isAdapter, trainedShapes, type AdapterTraining } from '../layers/trainable.ts'
import type { WeightSource } from '../layers/weights.ts'

/**
 * Returns the settings of an adapter that training is to start from, once each of its tensors fits the model: of every block that is not
 * trained whole, in the model's shapes, finite. Throws AdapterError naming the tensor that does not.
 */
export function importedSettings (
  model: Model,
  { r, alpha, rslora, bias, modulesToSave, tensors }: PeftAdapter,
  { blocks = [] }: Pick<AdapterTraining, 'blocks'>
): Pick<AdapterSettings, 'r' | 'alpha' | 'rslora' | 'targets'> {
  if (bias !== undefined)
    throw new AdapterError(
      `the adapter holds biases of the model itself (bias: ${bias})`,
      'merge it into the model with PEFT, and start from that'
    )
  if (modulesToSave !== undefined)
    throw new AdapterError(
      `the adapter holds modules of the model itself (modules_to_save: ${modulesToSave[0]}, …)`,
      'merge it into the model with PEFT, and start from that'
    )
  const names = [...tensors.keys()]
  const foreign = names.find((name) => internalTensorName(model.layersPrefix, name) === undefined)
  if (foreign !== undefined)
    throw new AdapterError(
      `${foreign} adapts no module of the model's blocks, which stand in ${model.layersPrefix}`,
      'use an adapter of the linear modules of this model'
    )
  const modules = new Set(names.map((name) => name.split('.').at(-3)!))
  const settings = { r, alpha, rslora, targets: adaptableModules(model).filter((module) => modules.has(module)) }
  const expected = new Map(trainedShapes(model, { ...settings, dropout: 0, seed: '', blocks }, { first: 0, end: model.layers })
    .filter(({ name }) => isAdapter(name)).map(({ name, shape }) => [peftTensorName(model.layersPrefix, name), shape]))
  for (const [name, { shape, data }] of tensors) {
    const wanted = expected.get(name)
    if (wanted === undefined)
      throw new AdapterError(`${name} has no place in the model`, 'use an adapter of this model, without the blocks that are trained whole')
    if (String(wanted) !== String(shape))
      throw new AdapterError(`${name} is [${shape.join(', ')}], and the model needs [${wanted.join(', ')}]`, 'use an adapter of this model')
    if (!(data as Float32Array).every(Number.isFinite)) throw new AdapterError(`${name} holds values that are not finite`)
  }
  const missing = [...expected.keys()].find((name) => !tensors.has(name))
  if (missing !== undefined) throw new AdapterError(`the adapter lacks ${missing}`, 'use one that adapts the same modules in every block')
  return settings
}

/** Weights of a model with an adapter's tensors, by PEFT's names, beside them. */
export function withAdapter (base: WeightSource, adapter: SafetensorsFile): WeightSource {
  return { read: async (name, signal) => adapter.tensors.has(name) ? await adapter.read(name, signal) : await base.read(name, signal) }
}
