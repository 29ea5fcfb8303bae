import type { TensorSource } from '../checkpoint/directory.ts'
import { blockTensor, blockWeights, embeddingWeight, headWeights, type Model, type Span, type WeightSpec } from '../families/family.ts'
import { compiled } from '../runtime/compiled.ts'
import { DeviceError, type AnyTensor, type Device, type DeviceTensor } from '../runtime/device.ts'
import { uploadRotary } from './attention.ts'
import { parameterNames, type Trainable } from './block-programs.ts'
import { initialAdapters } from './lora.ts'
import { endFormat, formatProgram, keptTensors, type WeightFormat } from './weight-format.ts'

/** Whatever reads named weights as float32. */
export type WeightSource = Pick<TensorSource, 'read'>

/**
 * The weights of one machine's part of a model, on its device: frozen ones, and trained ones, which an optimiser replaces. Spans and ends
 * of one machine share one set, so that a tied embedding is one tensor with one gradient.
 */
export class ModelWeights {
  readonly device: Device
  readonly model: Model
  readonly trainable: Trainable
  /** What frozen matrices of blocks are kept as; `endFormat` of it, those of the ends. */
  readonly format: WeightFormat
  /** What programs over these weights depend on: equal keys, equal programs. */
  readonly key: string
  /** Adapters as `${layer}.${module}.lora_A` or `.lora_B`, or weights by their names in the checkpoint. Optimisers replace its values. */
  readonly trained = new Map<string, DeviceTensor>()
  readonly #frozen = new Map<string, DeviceTensor>()
  readonly #rotary: { cos: DeviceTensor, sin: DeviceTensor }

  constructor (device: Device, model: Model, trainable: Trainable, format: WeightFormat, rotary: { cos: DeviceTensor, sin: DeviceTensor }) {
    this.device = device
    this.model = model
    this.trainable = trainable
    this.format = trainable === 'weights' ? 'fp32' : format
    this.key = JSON.stringify([model, trainable === 'weights' ? trainable : { ...trainable, seed: '' }, this.format])
    this.#rotary = rotary
  }

  /** An empty set. `format` is that of what is frozen; trained weights are float32. */
  static async create (device: Device, model: Model, trainable: Trainable, format: WeightFormat = 'fp32'): Promise<ModelWeights> {
    return new ModelWeights(device, model, trainable, format, await uploadRotary(device, model))
  }

  /** Loads a span's weights, and adapters as training starts, unless they are here. */
  async loadBlocks (source: WeightSource, span: Span): Promise<void> {
    for (let layer = span.first; layer < span.end; layer++) {
      for (const { name, shape } of blockWeights(this.model)) await this.#load(source, { name: blockTensor(this.model, layer, name), shape }, this.format)
    }
    if (this.trainable === 'weights') return
    for (const [name, value] of initialAdapters(this.model, this.trainable, span)) {
      if (!this.trained.has(name)) this.trained.set(name, await this.device.upload(value))
    }
  }

  async loadEmbedding (source: WeightSource): Promise<void> {
    await this.#load(source, embeddingWeight(this.model), endFormat(this.format))
  }

  /** Loads the final norm and the head. */
  async loadHead (source: WeightSource): Promise<void> {
    for (const weight of headWeights(this.model)) await this.#load(source, weight, endFormat(this.format))
  }

  /** The inputs of a block's program that say which block it is. */
  blockInputs (layer: number): Record<string, DeviceTensor> {
    const inputs: Record<string, DeviceTensor> = { ...this.#rotary }
    for (const weight of blockWeights(this.model)) {
      for (const name of keptTensors(weight, this.format).keys()) inputs[name] = this.#tensor(blockTensor(this.model, layer, name))
    }
    if (this.trainable === 'weights') return inputs
    for (const name of parameterNames(this.model, this.trainable)) inputs[name] = this.trained.get(`${layer}.${name}`)!
    return inputs
  }

  /** The inputs that programs of the ends take for these weights, named as in the checkpoint. */
  endInputs (weights: readonly WeightSpec[]): Record<string, DeviceTensor> {
    return Object.fromEntries(weights.flatMap(weight => [...keptTensors(weight, endFormat(this.format)).keys()].map(name => [name, this.#tensor(name)])))
  }

  /** The name of a block's parameter in `trained`. */
  parameterName (layer: number, name: string): string {
    return this.trainable === 'weights' ? blockTensor(this.model, layer, name) : `${layer}.${name}`
  }

  /** The names in `trained` that belong to a span. */
  parameterNames ({ first, end }: Span): string[] {
    const names = parameterNames(this.model, this.trainable)
    return Array.from({ length: end - first }, (_, i) => names.map(name => this.parameterName(first + i, name))).flat()
  }

  /** Replaces trained tensors. Throws DeviceError for a name or shape that is not here; then nothing is replaced. */
  async setTrained (values: ReadonlyMap<string, AnyTensor>): Promise<void> {
    for (const [name, { shape, dtype }] of values) {
      const known = this.trained.get(name)
      if (known === undefined) throw new DeviceError(`there is no trained tensor ${name}`)
      if (known.dtype !== dtype || String(known.shape) !== String(shape)) throw new DeviceError(`${name} is a ${known.dtype} tensor of shape [${known.shape.join(', ')}], not ${dtype} [${shape.join(', ')}]`)
    }
    for (const [name, value] of values) {
      const replacement = 'id' in value ? value : await this.device.upload(value)
      this.device.free(this.trained.get(name)!)
      this.trained.set(name, replacement)
    }
  }

  free (): void {
    this.device.free(...this.trained.values(), ...this.#frozen.values(), this.#rotary.cos, this.#rotary.sin)
    this.trained.clear()
    this.#frozen.clear()
  }

  #tensor (name: string): DeviceTensor {
    const found = this.#frozen.get(name) ?? this.trained.get(name)
    if (found === undefined) throw new DeviceError(`the weight ${name} is not loaded`)
    return found
  }

  async #load (source: WeightSource, weight: WeightSpec, format: WeightFormat): Promise<void> {
    const { name, shape } = weight
    const kept = [...keptTensors(weight, format).keys()]
    if (kept.every(tensor => this.#frozen.has(tensor) || this.trained.has(tensor))) return
    const plain = await this.device.upload(await source.read(name))
    if (shape.length !== 2 || format === 'fp32') {
      const home = this.trainable === 'weights' ? this.trained : this.#frozen
      home.set(name, plain)
      return
    }
    try {
      const executable = await compiled(this.device, `weight ${format} ${shape.join()}`, () => formatProgram(weight, format))
      const results = await executable.run({ matrix: plain }, { keep: 'all' })
      for (const tensor of kept) this.#frozen.set(tensor, results[`weight${tensor.slice(name.length)}`] as DeviceTensor)
    } finally {
      this.device.free(plain)
    }
  }
}
