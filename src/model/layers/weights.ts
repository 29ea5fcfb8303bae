import { createHash } from 'node:crypto'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import type { TensorSource } from '../checkpoint/directory.ts'
import { TensorMismatchError } from '../checkpoint/errors.ts'
import { readAhead } from '../checkpoint/read-ahead.ts'
import { kindOf, type Model } from '../families/family.ts'
import { blockTensor, blockWeights, embeddingWeight, headWeights, type WeightSpec } from '../families/weights.ts'
import { Graph } from '../graph/graph.ts'
import { program, type Program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import { DeviceError, type AnyTensor, type Device, type DeviceTensor, type Executable } from '../runtime/device.ts'
import { columnSteps } from './int8-range.ts'
import { importedAdapters, initialAdapters } from './lora.ts'
import { RotaryTables } from './rotary-tables.ts'
import { blockTraining, parameterName, parameterNames, type BlockTraining, type Trainable } from './trainable.ts'
import { endFormat, formatProgram, isQuantized, keptTensors, type KeptFormat, type RowType, type WeightFormat } from './weight-format.ts'

/** Whatever reads named weights as float32. Each reading is a tensor of its own, which the reader may give away. */
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
  /** What heads turn by. */
  readonly rotary: RotaryTables
  /** What programs over these weights depend on: equal keys, equal programs. */
  readonly key: string
  /** Adapters as `${layer}.${module}.lora_A` or `.lora_B`, or weights by their names in the checkpoint. Optimisers step them in place. */
  readonly trained = new Map<string, DeviceTensor>()
  readonly #frozen = new Map<string, DeviceTensor>()
  readonly #fixed = new Map<string, Promise<Executable>>()
  /** By block, like the next two: all are asked for at every step and token of every block. */
  readonly #training: readonly BlockTraining[]
  readonly #programKeys: readonly string[]
  /** The inputs of its programs that say which block it is, each with the name of its tensor here. */
  readonly #blockTensors: ReadonlyArray<ReadonlyArray<readonly [input: string, tensor: string]>>

  /** An empty set. `format` is that of what is frozen; trained weights are float32. */
  constructor (device: Device, model: Model, trainable: Trainable, format: WeightFormat = 'fp32') {
    this.device = device
    this.model = model
    this.trainable = trainable
    this.format = trainable === 'weights' ? 'fp32' : format
    this.key = digest([model, trainable === 'weights' ? trainable : { ...trainable, seed: '' }, this.format, device.compute])
    this.rotary = new RotaryTables(device, model)
    this.#training = Array.from({ length: model.layers }, (_, layer) => blockTraining(model, trainable, layer))
    this.#programKeys = this.#training.map(({ adapters, weights }, layer) =>
      digest([kindOf(model, layer), adapters !== undefined, weights, this.key])
    )
    this.#blockTensors = this.#training.map((training, layer) => [
      ...blockWeights(model).flatMap((weight) =>
        [...keptTensors(weight, this.blockFormat(layer)).keys()].map((name) => [name, blockTensor(model, layer, name)] as const)
      ),
      ...parameterNames(model, training).map((name) => [name, parameterName(model, layer, name)] as const)
    ])
  }

  /** Returns what `load` makes of the set; where it fails, the set is freed, since half of one serves nothing. */
  async orFreed<T> (load: () => Promise<T>): Promise<T> {
    try {
      return await load()
    } catch (error) {
      this.free()
      throw error
    }
  }

  /** Loads a span's weights, and adapters as training starts, unless they are here. */
  async loadBlocks (source: WeightSource, span: Span): Promise<void> {
    const layers = Array.from({ length: span.end - span.first }, (_, i) => span.first + i)
    await this.#load(
      source,
      layers.flatMap((layer) =>
        blockWeights(this.model).map(({ name, shape }) => (
          {
            name: blockTensor(this.model, layer, name),
            shape,
            format: this.blockFormat(layer),
            isTrained: this.training(layer).weights.includes(name)
          }
        ))
      )
    )
    await this.loadTrained(source, span)
  }

  /** Loads what is trained of a span alone, unless it is here: what an optimiser needs of blocks that others compute. */
  async loadTrained (source: WeightSource, { first, end }: Span): Promise<void> {
    for (let layer = first; layer < end; layer++) {
      const { adapters, weights } = this.training(layer)
      await this.#load(source, blockWeights(this.model).filter(({ name }) => weights.includes(name)).map(({ name, shape }) => (
        { name: blockTensor(this.model, layer, name), shape, format: 'fp32', isTrained: true })))
      if (adapters === undefined) continue
      const block = { first: layer, end: layer + 1 }
      const initial = adapters.imported === true
        ? await importedAdapters(this.model, adapters, source, block)
        : initialAdapters(this.model, adapters, block)
      for (const [name, value] of initial) {
        if (!this.trained.has(name)) this.trained.set(name, await this.device.upload(value))
      }
    }
  }

  /** Returns what is trained in a block. */
  training (layer: number): BlockTraining {
    return this.#training[layer]!
  }

  /** Returns what a block's matrices are kept as: what they are computed in, rather than wider. */
  blockFormat (layer: number): KeptFormat {
    if (this.training(layer).adapters === undefined) return 'fp32'
    if (this.device.compute === 'int8') return isQuantized(this.format) ? this.format : 'int8-products'
    return this.format === 'fp32' ? this.device.compute : this.format
  }

  /** What products with matrices of blocks round their rows to; undefined: nothing. */
  get rowType (): RowType | undefined {
    return this.device.compute === 'fp16' ? 'float16' : undefined
  }

  async loadEmbedding (source: WeightSource): Promise<void> {
    await this.#load(source, [this.#endWeight(embeddingWeight(this.model))])
  }

  /** Loads the final norm and the head. */
  async loadHead (source: WeightSource): Promise<void> {
    await this.#load(source, headWeights(this.model).map((weight) => this.#endWeight(weight)))
  }

  /** Returns what a block's programs depend on: blocks with equal keys share them. */
  programKey (layer: number): string {
    return this.#programKeys[layer]!
  }

  /** Returns the inputs of a block's program that say which block it is. */
  blockInputs (layer: number): Record<string, DeviceTensor> {
    return Object.fromEntries(this.#blockTensors[layer]!.map(([input, name]) => [input, this.#tensor(name)]))
  }

  /** Returns the inputs that programs of the ends take for these weights, named as in the checkpoint. */
  endInputs (weights: readonly WeightSpec[]): Record<string, DeviceTensor> {
    return Object.fromEntries(
      weights.flatMap((weight) => [...keptTensors(weight, endFormat(this.format)).keys()].map((name) => [name, this.#tensor(name)]))
    )
  }

  /**
   * Returns whether programs that generate have frozen weights of this format fixed in them, and products that may round their input to 8
   * bits. Only then does a CPU compute on quantised codes as they are: for weights that are inputs it dequantises the matrix in every run,
   * which takes many times as long as a row's product (bench/weights.ts). Codes of int8 products are put into the order of the processor's
   * kernels once in place of every run.
   */
  fixes (format: KeptFormat): boolean {
    return (isQuantized(format) || format === 'int8-products') && this.device.kind !== 'webgpu'
  }

  /**
   * Returns the program of this name with those of the inputs fixed in it that are frozen; compiled when first asked for, and kept as long
   * as the set.
   */
  async fixed (name: string, build: () => Program, inputs: Readonly<Record<string, DeviceTensor>>): Promise<Executable> {
    const known = this.#fixed.get(name)
    if (known !== undefined) return await known
    const made = this.#compileFixed(build(), inputs)
    this.#fixed.set(name, made)
    made.catch(() => { this.#fixed.delete(name) })
    return await made
  }

  /** Returns the name of a block's parameter in `trained`. */
  parameterName (layer: number, name: string): string {
    return parameterName(this.model, layer, name)
  }

  /** Returns the names in `trained` that belong to a span. */
  parameterNames ({ first, end }: Span): string[] {
    return Array.from({ length: end - first }, (_, i) => first + i)
      .flatMap((layer) => parameterNames(this.model, this.training(layer)).map((name) => this.parameterName(layer, name)))
  }

  /** Replaces trained tensors. Throws DeviceError for a name or shape that is not here; then nothing is replaced. */
  async setTrained (values: ReadonlyMap<string, AnyTensor>): Promise<void> {
    for (const [name, value] of values) this.#checkTrained(name, value)
    for (const [name, value] of values) {
      const replacement = 'id' in value ? value : await this.device.upload(value)
      this.device.free(this.trained.get(name)!)
      this.trained.set(name, replacement)
    }
  }

  /**
   * Sets the values of trained tensors in place, in one run: the tensors stay those that other work refers to, and no run sees some of them
   * new and others old. Throws DeviceError as `setTrained` does.
   */
  async assignTrained (values: ReadonlyMap<string, Tensor>): Promise<void> {
    const targets = [...values].map(([name, value]) => ({ value, target: this.#checkTrained(name, value) }))
    if (targets.length === 0) return
    const executable = await compiled(this.device, 'assign', () => {
      const graph = new Graph()
      graph.output('assigned', graph.input('value', 'float32', undefined))
      return program('assign', graph)
    })
    await this.device.runSequence(targets.map((inputs) => ({ executable, inputs, inPlace: { assigned: 'target' } })))
  }

  free (): void {
    this.device.free(...this.trained.values(), ...this.#frozen.values())
    this.rotary.free()
    for (const executable of this.#fixed.values())
      void executable.then(async ({ close }) => {
        await close()
      }).catch(() => {}) // a device that is closed has none left
    this.trained.clear()
    this.#frozen.clear()
    this.#fixed.clear()
  }

  async #compileFixed (program: Program, inputs: Readonly<Record<string, DeviceTensor>>): Promise<Executable> {
    const frozen = new Set(this.#frozen.values())
    const constants = program.inputs.flatMap(({ name }) => {
      const value = inputs[name]
      return value !== undefined && frozen.has(value) ? [[name, value] as const] : []
    })
    return await this.device.compile(program, { constants: Object.fromEntries(constants) })
  }

  /** Returns the trained tensor that a value would replace. Throws DeviceError where there is none, or one of another type or shape. */
  #checkTrained (name: string, { shape, dtype }: Pick<AnyTensor, 'shape' | 'dtype'>): DeviceTensor {
    const known = this.trained.get(name)
    if (known === undefined) throw new DeviceError(`there is no trained tensor ${name}`)
    if (known.dtype !== dtype || String(known.shape) !== String(shape))
      throw new DeviceError(`${name} is a ${known.dtype} tensor of shape [${known.shape.join(', ')}], not ${dtype} [${shape.join(', ')}]`)
    return known
  }

  #tensor (name: string): DeviceTensor {
    const found = this.#frozen.get(name) ?? this.trained.get(name)
    if (found === undefined) throw new DeviceError(`the weight ${name} is not loaded`)
    return found
  }

  #endWeight (weight: WeightSpec): WantedWeight {
    return { ...weight, format: endFormat(this.format), isTrained: this.trainable === 'weights' }
  }

  /** Loads weights that are not here yet, reading ahead while one goes to the device; none of them where one fails. */
  async #load (source: WeightSource, wanted: readonly WantedWeight[]): Promise<void> {
    const missing = wanted.filter((weight) =>
      ![...keptTensors(weight, weight.format).keys()].every((tensor) => this.#frozen.has(tensor) || this.trained.has(tensor))
    )
    const added: Array<() => void> = []
    try {
      for await (const [weight, value] of readAhead(missing, async ({ name }) => await source.read(name))) {
        checkShape(weight, value)
        const home = weight.isTrained ? this.trained : this.#frozen
        for (const [name, tensor] of await this.#kept(weight, value)) {
          home.set(name, tensor)
          added.push(() => {
            home.delete(name)
            this.device.free(tensor)
          })
        }
      }
    } catch (error) {
      for (const remove of added) remove()
      throw error
    }
  }

  /** Returns a weight on the device, as the tensors that it is kept as. */
  async #kept ({ name, shape, format }: WantedWeight, value: Tensor): Promise<Array<[string, DeviceTensor]>> {
    const plain = await this.device.upload(value, { given: true })
    if (shape.length !== 2 || format === 'fp32') return [[name, plain]]
    try {
      const steps = format === 'int8-products' ? await columnSteps(this.device) : undefined
      const executable = await compiled(this.device, `weight ${format} ${shape.join()}`, () => formatProgram({ shape }, format, steps))
      const results = await executable.run({ matrix: plain }, { keep: 'all' })
      return [...keptTensors({ name, shape }, format).keys()].map((
        tensor
      ) => [tensor, results[`weight${tensor.slice(name.length)}`] as DeviceTensor])
    } finally {
      this.device.free(plain)
    }
  }
}

/** Checks a weight's shape: one of another model would fail later, in a program that does not know where it came from. */
function checkShape ({ name, shape }: WeightSpec, value: Tensor): void {
  if (String(value.shape) !== String(shape))
    throw new TensorMismatchError(
      name,
      'the weights',
      `is [${value.shape.join(', ')}], and the model calls for [${shape.join(', ')}]`,
      'use the config.json that belongs to these weights'
    )
}

/** Returns a short key for what JSON shows: each block of each token looks for a program by it, and a model's description has kilobytes. */
function digest (described: unknown): string {
  return createHash('sha256').update(JSON.stringify(described)).digest('base64')
}

interface WantedWeight extends WeightSpec {
  readonly format: KeptFormat
  readonly isTrained: boolean
}
