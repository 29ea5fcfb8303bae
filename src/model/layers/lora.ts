import { createHash } from 'node:crypto'
import { MidspanError } from '../../errors.ts'
import type { Span } from '../../span.ts'
import { float32, type Tensor } from '../../tensor.ts'
import type { TensorSource } from '../checkpoint/directory.ts'
import { loraScale } from '../checkpoint/peft-config.ts'
import { peftTensorName } from '../checkpoint/peft.ts'
import type { LinearModule, Model } from '../families/family.ts'

/** Low-rank adapters (https://arxiv.org/abs/2106.09685), in PEFT's terms. */
export interface AdapterSettings {
  readonly r: number
  readonly alpha: number
  /** Probability that an adapter does not see an element of its input, in training. */
  readonly dropout: number
  /** True: the update is scaled by alpha / sqrt(r) rather than alpha / r. */
  readonly rslora: boolean
  /** Leaf names of the adapted modules, such as `q_proj`. */
  readonly targets: readonly string[]
  /** Everyone with this seed starts from the same adapters. */
  readonly seed: string
  /** They start as the source of the weights has them, under PEFT's names, rather than from the seed. */
  readonly imported?: boolean
}

/** Thrown for adapter settings that do not fit the model. */
export class AdapterSettingsError extends MidspanError {
  constructor (message: string, next: string) {
    super('E_ADAPTER_SETTINGS', message, { next })
  }
}

/** Returns what the update B·A is multiplied by. */
export function adapterScaling (settings: AdapterSettings): number {
  return loraScale(settings)
}

/**
 * Returns the modules of a block that have adapters, in the block's order. Throws AdapterSettingsError for a target that the model lacks.
 */
export function adapterTargets (model: Model, { targets }: Pick<AdapterSettings, 'targets'>): LinearModule[] {
  const known = adaptableModules(model)
  const missing = targets.find((target) => !known.includes(target))
  if (missing !== undefined)
    throw new AdapterSettingsError(`${model.architecture} has no module ${missing}`, `name some of ${known.join(', ')}`)
  return model.linears.filter(({ name }) => targets.includes(leafOf(name)))
}

/** Returns the leaf names of a block's linear modules, such as `q_proj`. */
export function adaptableModules (model: Model): string[] {
  return model.linears.map(({ name }) => leafOf(name))
}

function leafOf (name: string): string {
  return name.slice(name.lastIndexOf('.') + 1)
}

/** Returns the names and shapes of a span's adapter tensors: A [r, in] and B [out, r] of each target. */
export function adapterShapes (model: Model, settings: AdapterSettings, { first, end }: Span): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>()
  for (let layer = first; layer < end; layer++) {
    for (const { name, inputSize, outputSize } of adapterTargets(model, settings)) {
      shapes.set(`${layer}.${name}.lora_A`, [settings.r, inputSize])
      shapes.set(`${layer}.${name}.lora_B`, [outputSize, settings.r])
    }
  }
  return shapes
}

/**
 * Returns a span's adapters as training starts: B is zero, A uniform within ±1/sqrt(in) from SHAKE-256 of the seed and PEFT's name of the
 * tensor.
 */
export function initialAdapters (model: Model, settings: AdapterSettings, span: Span): Map<string, Tensor> {
  return new Map([...adapterShapes(model, settings, span)].map(([name, shape]) => [name, initialTensor(model, settings.seed, name, shape)]))
}

/**
 * Returns a span's adapters as an earlier training left them. Throws AdapterSettingsError for one of another shape than the settings say.
 */
export async function importedAdapters (
  model: Model,
  settings: AdapterSettings,
  source: Pick<TensorSource, 'read'>,
  span: Span
): Promise<Map<string, Tensor>> {
  const adapters = new Map<string, Tensor>()
  for (const [name, shape] of adapterShapes(model, settings, span)) {
    const value = await source.read(peftTensorName(model.layersPrefix, name))
    if (String(value.shape) !== String(shape))
      throw new AdapterSettingsError(
        `the imported ${name} is [${value.shape.join(', ')}], not [${shape.join(', ')}]`,
        'ask the founder: the charter does not fit its adapter'
      )
    adapters.set(name, value)
  }
  return adapters
}

function initialTensor ({ layersPrefix }: Model, seed: string, name: string, shape: readonly number[]): Tensor {
  const values = new Float32Array(shape[0]! * shape[1]!)
  if (name.endsWith('.lora_B')) return float32(shape, values)
  const bytes = createHash('shake256', { outputLength: 4 * values.length }).update(`${seed}/${peftTensorName(layersPrefix, name)}`).digest()
  const bound = Math.sqrt(shape[1]!)
  for (let i = 0; i < values.length; i++) values[i] = (2 * ((bytes.readUInt32LE(4 * i) >>> 8) / 2 ** 24) - 1) / bound
  return float32(shape, values)
}

/** Returns the key of the random bits that decide what one adapter does not see in one step. */
export function dropoutKey (seed: string, layer: number, module: string): Uint8Array {
  return createHash('sha256').update(`${seed}/${layer}.${module}`).digest()
}
