import type { Tensor } from '../../tensor.ts'
import { narrow } from './conversion.ts'
import type { ModelDirectory } from './directory.ts'
import type { SaveDType, StoredDType } from './dtypes.ts'
import { AdapterError } from './errors.ts'
import { loraScale } from './peft-config.ts'
import { modulesOf, type PeftAdapter } from './peft.ts'

/** What training made of a base model. */
export interface ModelChanges {
  /** Its updates are added to the weights of the modules that it adapts. */
  readonly adapter?: PeftAdapter | undefined
  /** Tensors that stand in place of the base's, float32, by their names in the checkpoint. */
  readonly values?: ReadonlyMap<string, Tensor> | undefined
}

/** From here on a float16 rounds to infinity. */
const FLOAT16_LIMIT = 65_520

/** The tensors of a model directory that training changed, computed one at a time. */
export class MergedTensors {
  readonly #directory: ModelDirectory
  readonly #adapter: PeftAdapter | undefined
  /** The modules that the adapter changes, by the name of their weight in the checkpoint. */
  readonly #modules: ReadonlyMap<string, string>
  readonly #values: ReadonlyMap<string, Tensor>

  /** Throws AdapterError for a change that has no place in the directory. */
  constructor (directory: ModelDirectory, { adapter, values = new Map() }: ModelChanges) {
    this.#directory = directory
    this.#adapter = adapter
    this.#values = values
    this.#modules = new Map(adapter === undefined ? [] : modulesOf(adapter).map(({ path, wrapped }) => [`${path}.weight`, wrapped]))
    for (const [weight, wrapped] of this.#modules) {
      const [a, b] = this.#factors(wrapped)
      this.#checkPlace(weight, [b.shape[0]!, a.shape[1]!])
    }
    for (const [name, { shape }] of values) this.#checkPlace(name, shape)
  }

  /** Names of the tensors that differ from the base's. */
  get names (): string[] {
    return [...new Set([...this.#modules.keys(), ...this.#values.keys()])]
  }

  has (name: string): boolean {
    return this.#modules.has(name) || this.#values.has(name)
  }

  /**
   * Returns the stored bytes of a changed tensor: `W + scaling · B · A` in float32, rounded once to the type in which the base stores W.
   */
  async read (name: string, signal?: AbortSignal): Promise<Uint8Array> {
    const value = this.#values.get(name) ?? await this.#directory.read(name, signal)
    const wrapped = this.#modules.get(name)
    const sum = wrapped === undefined || this.#adapter === undefined
      ? value.data as Float32Array
      : added(value, this.#factors(wrapped), loraScale(this.#adapter))
    const { dtype } = this.#directory.info(name)
    checkStorable(name, sum, dtype)
    return narrow(dtype as SaveDType, sum)
  }

  #factors (wrapped: string): [a: Tensor, b: Tensor] {
    const { tensors } = this.#adapter!
    return [tensors.get(`${wrapped}.lora_A.weight`)!, tensors.get(`${wrapped}.lora_B.weight`)!]
  }

  #checkPlace (name: string, shape: readonly number[]): void {
    const { path } = this.#directory
    if (!this.#directory.has(name))
      throw new AdapterError(`${path} has no tensor ${name}, which training changed`, 'name the model that was trained')
    const base = this.#directory.info(name)
    if (String(base.shape) !== String(shape))
      throw new AdapterError(
        `${name} is [${base.shape.join(', ')}] in ${path}, and [${shape.join(', ')}] in what was trained`,
        'name the model that was trained'
      )
    if (!isSaved(base.dtype))
      throw new AdapterError(
        `${path} stores ${name} as ${base.dtype}, to which training cannot be added`,
        'convert the model to F32, F16 or BF16'
      )
  }
}

/** Returns W [out, in] with the update of A [r, in] and B [out, r]. W is not changed. */
function added (
  { data, shape: [rows, columns] }: Tensor,
  [{ data: a, shape: [rank] }, { data: b }]: [a: Tensor, b: Tensor],
  scaling: number
): Float32Array {
  const sum = Float32Array.from(data as Float32Array)
  const update = new Float32Array(columns!)
  for (let row = 0; row < rows!; row++) {
    update.fill(0)
    for (let k = 0; k < rank!; k++) {
      const factor = b[row * rank! + k] as number
      const start = k * columns!
      for (let column = 0; column < columns!; column++) update[column]! += factor * (a[start + column] as number)
    }
    const start = row * columns!
    for (let column = 0; column < columns!; column++) sum[start + column]! += scaling * update[column]!
  }
  return sum
}

function isSaved (dtype: StoredDType): dtype is SaveDType {
  return dtype === 'F32' || dtype === 'F16' || dtype === 'BF16'
}

/** Checks that the stored type can hold every value: one that it cannot hold would spoil the model without a word. */
function checkStorable (name: string, values: Float32Array, dtype: StoredDType): void {
  const limit = dtype === 'F16' ? FLOAT16_LIMIT : Infinity
  for (let i = 0; i < values.length; i++) {
    if (!(Math.abs(values[i]!) < limit))
      throw new AdapterError(`${name} would hold ${values[i]}, which ${dtype} does not`, 'check the training: its values ran away')
  }
}
