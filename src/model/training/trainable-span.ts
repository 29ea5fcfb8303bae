import type { Span } from '../../span.ts'
import { bytesPerElement, elementCount, type Tensor } from '../../tensor.ts'
import { kindOf, type Model } from '../families/family.ts'
import { grownTables } from '../families/rotary-embedding.ts'
import { blockPrograms, type BlockPrograms, type ResidualPolicy } from '../layers/block-programs.ts'
import { GradientSum } from '../layers/gradient-sum.ts'
import {
  concatRows,
  contextsFault,
  evenGroups,
  longest,
  rowLayout,
  sliceRows,
  type HiddenStates,
  type SequenceGroup,
  type Sequences
} from '../layers/hidden-states.ts'
import { AdapterSettingsError, adapterTargets, dropoutKey } from '../layers/lora.ts'
import type { Trainable } from '../layers/trainable.ts'
import type { WeightFormat } from '../layers/weight-format.ts'
import { ModelWeights, type WeightSource } from '../layers/weights.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, Device, DeviceTensor, Executable } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import { ResidualChoice, type ResidualSetting } from './activation-checkpointing.ts'

export interface SpanOptions {
  /** Weights that the span shares with others on this machine; the span loads its own when this is left out. */
  readonly weights?: ModelWeights
  /** The format of frozen matrices in the span's own weights; float32 when left out. */
  readonly format?: WeightFormat
  /** Activation checkpointing. `saved`, the default, is faster for wide models, `recomputed` takes less memory, `auto` measures both. */
  readonly policy?: ResidualSetting
  /** Bytes of activations that `auto` lets one pass save; no limit when left out. */
  readonly residualBytes?: number | undefined
  /** Where others use the device too: how long a run may be, and when it begins. */
  readonly pace?: Pace
}

/** How the runs of a span share the device with other work. A run is one block, forward or backward. */
export interface Pace {
  /** Rows that a run may have now; a longer sequence has a run of its own. */
  readonly maxRows: () => number
  /** Does a run when its turn comes. */
  readonly turn: <T>(run: () => Promise<T>) => Promise<T>
}

/** Runs of any length, at once. */
const UNPACED: Pace = { maxRows: () => Infinity, turn: async (run) => await run() }

export interface ForwardOptions {
  /** Whether a backward pass follows. */
  readonly keepResiduals: boolean
  /** The blocks `[first, end)` to compute, within the span; all of them when left out. */
  readonly first?: number
  readonly end?: number
  /** Seeds of dropout's random bits, for all rows in order. Training needs them where adapters drop out. */
  readonly seeds?: readonly RowSeed[]
}

/** Rows whose random bits follow from this seed and a row's place among the seed's rows alone. A seed is used once a step. */
export interface RowSeed {
  readonly rows: number
  readonly seed: string
  /** The place of the first of these rows among all that the seed is for; 0 when left out. */
  readonly from?: number
}

/** As `ForwardOptions`, with every choice made. */
type RunOptions = Required<Pick<ForwardOptions, 'keepResiduals' | 'first' | 'end'>> & { readonly seeds: readonly RowSeed[] | undefined }

interface BlockResiduals {
  readonly layer: number
  readonly hidden: DeviceTensor
  readonly saved: Readonly<Record<string, DeviceTensor>>
}

/** The activations that a forward pass saves for its backward pass. */
export class SavedActivations {
  readonly blocks: BlockResiduals[] = []
  readonly layout: Readonly<Record<string, DeviceTensor>>
  readonly rows: number
  readonly seeds: readonly RowSeed[] | undefined
  readonly policy: ResidualPolicy
  /** The time that the forward pass took. */
  forwardMs = 0
  /** The activations of each run, in the order of the rows, of a batch that takes several runs. Such a batch has nothing else here. */
  parts: readonly SavedActivations[] = []
  readonly #scope: Scope

  constructor (
    scope: Scope,
    layout: SavedActivations['layout'],
    rows: number,
    seeds: readonly RowSeed[] | undefined,
    policy: ResidualPolicy
  ) {
    this.#scope = scope
    this.layout = layout
    this.rows = rows
    this.seeds = seeds
    this.policy = policy
  }

  /** Counts the bytes that are held on the device until the backward pass. */
  get bytes (): number {
    return this.blocks.flatMap(({ hidden, saved }) => [hidden, ...Object.values(saved)]).reduce(
      (sum, { dtype, shape }) => sum + bytesPerElement[dtype] * elementCount(shape),
      0
    )
  }

  /** Frees the activations. A backward pass frees them too. */
  free (): void {
    for (const part of this.parts) part.free()
    this.#scope[Symbol.dispose]()
  }
}

export interface SpanGradients {
  /** The gradient of the rows that went in, [rows, hidden]. */
  readonly gradient: DeviceTensor
  /** The gradients of the trained tensors of the blocks passed, by name. */
  readonly adapters: Map<string, DeviceTensor>
}

interface TrainingExecutables {
  readonly parameters: BlockPrograms['parameters']
  readonly forward: Executable
  readonly backward: Executable
  /** Compiled when first asked for, since only the first block with anything to train needs it. */
  readonly backwardToParameters: () => Promise<Executable>
}

interface BlockExecutables {
  readonly evaluate: Executable
  /** The programs of each policy that passes may use. */
  readonly training: Partial<Record<ResidualPolicy, TrainingExecutables>>
}

/** Computes consecutive blocks on a device, forward and backward. A pass goes through all of them, or through consecutive ones. */
export class TrainableSpan {
  readonly device: Device
  readonly model: Model
  readonly span: Span
  readonly weights: ModelWeights
  readonly residuals: ResidualChoice
  readonly #blocks: readonly BlockExecutables[]
  readonly #pace: Pace

  constructor (weights: ModelWeights, span: Span, blocks: readonly BlockExecutables[], residuals: ResidualChoice, pace = UNPACED) {
    this.residuals = residuals
    this.#pace = pace
    this.device = weights.device
    this.model = weights.model
    this.weights = weights
    this.span = span
    this.#blocks = blocks
  }

  /** Loads blocks `[first, end)` with adapters as training starts, or to be trained themselves (`'weights'`). */
  static async load (
    device: Device,
    model: Model,
    source: WeightSource,
    span: Span,
    trainable: Trainable,
    { weights, format, policy = 'saved', residualBytes, pace }: SpanOptions = {}
  ): Promise<TrainableSpan> {
    if (!(span.first >= 0 && span.first <= span.end && span.end <= model.layers))
      throw new RangeError(`the model has blocks [0, ${model.layers}), not [${span.first}, ${span.end})`)
    const set = weights ?? new ModelWeights(device, model, trainable, format)
    const residuals = new ResidualChoice(policy, residualBytes)
    const made = new Map<string, Promise<BlockExecutables>>()
    const blocks = await Promise.all(Array.from({ length: span.end - span.first }, async (_, i) => {
      const key = set.programKey(span.first + i)
      const executables = made.get(key) ?? blockExecutables(set, span.first + i, residuals.candidates)
      made.set(key, executables)
      return await executables
    }))
    if (weights === undefined) await set.orFreed(async () => { await set.loadBlocks(source, span) })
    else await set.loadBlocks(source, span)
    return new TrainableSpan(set, span, blocks, residuals, pace)
  }

  /** Returns the trained tensors of this span by name. Setting or restoring them replaces the handles, which are not to be kept. */
  parameters (): Map<string, DeviceTensor> {
    return new Map(this.weights.parameterNames(this.span).map((name) => [name, this.weights.trained.get(name)!]))
  }

  /**
   * Computes blocks on rows [rows, hidden]. The caller frees the result, and keeps the given rows: with `keepResiduals`, a device tensor
   * must live until the backward pass. Sequences whose lengths differ much are computed in several runs, since attention pads them.
   */
  async forward (
    rows: HiddenStates,
    { keepResiduals, first = this.span.first, end = this.span.end, seeds }: ForwardOptions
  ): Promise<{ hidden: DeviceTensor, residuals?: SavedActivations }> {
    this.#check(rows, first, end)
    const groups = evenGroups(rows.lengths, this.#pace.maxRows())
    return groups.length === 1
      ? await this.#forwardRun(rows, { keepResiduals, first, end, seeds })
      : await this.#forwardGroups(rows, groups, { keepResiduals, first, end, seeds })
  }

  /** Passes groups of sequences through blocks, one after another. */
  async #forwardGroups (
    { hidden, lengths, contexts }: HiddenStates,
    groups: readonly SequenceGroup[],
    options: RunOptions
  ): Promise<{ hidden: DeviceTensor, residuals?: SavedActivations }> {
    const kept = new Scope(this.device)
    using scope = new Scope(this.device)
    const [outputs, parts]: [DeviceTensor[], SavedActivations[]] = [[], []]
    try {
      const rows = await scope.upload(hidden)
      for (const { sequences: [firstSequence, endSequence], rows: [firstRow, endRow] } of groups) {
        const run = await this.#forwardRun({
          hidden: kept.own(await sliceRows(this.device, rows, firstRow, endRow)),
          lengths: lengths.slice(firstSequence, endSequence),
          ...(contexts === undefined ? {} : { contexts: contexts.slice(firstSequence, endSequence) })
        }, { ...options, seeds: options.seeds === undefined ? undefined : seedsWithin(options.seeds, firstRow, endRow) })
        outputs.push(scope.own(run.hidden))
        if (run.residuals !== undefined) parts.push(run.residuals)
      }
      const joined = await concatRows(this.device, outputs)
      if (options.keepResiduals) {
        const residuals = new SavedActivations(kept, {}, rows.shape[0]!, options.seeds, parts[0]!.policy)
        residuals.parts = parts
        return { hidden: joined, residuals }
      }
      kept[Symbol.dispose]()
      return { hidden: joined }
    } catch (error) {
      for (const part of parts) part.free()
      kept[Symbol.dispose]()
      throw error
    }
  }

  async #forwardRun (
    rows: HiddenStates,
    { keepResiduals, first, end, seeds }: RunOptions
  ): Promise<{ hidden: DeviceTensor, residuals?: SavedActivations }> {
    const scope = new Scope(this.device)
    const startedAtMs = performance.now()
    try {
      const layout = await this.#layout(scope, rows)
      let hidden = await scope.upload(rows.hidden)
      const count = hidden.shape[0]!
      const residuals = new SavedActivations(
        scope,
        layout,
        count,
        seeds,
        keepResiduals ? this.residuals.next(count * (end - first)) : 'recomputed'
      )
      for (let layer = first; layer < end; layer++) {
        const { output, ...saved } = keepResiduals
          ? await this.#forward(scope, residuals, layer, hidden)
          : await this.#evaluate(scope, layout, layer, hidden)
        if (keepResiduals) residuals.blocks.push({ layer, hidden, saved })
        else if (hidden !== rows.hidden) scope.free(hidden)
        hidden = output!
      }
      // Where there is no block to compute, the result is a tensor of its own all the same.
      if (first === end) hidden = await sliceRows(this.device, hidden, 0, residuals.rows)
      scope.release([hidden])
      residuals.forwardMs = performance.now() - startedAtMs
      if (keepResiduals) return { hidden, residuals }
      scope[Symbol.dispose]()
      return { hidden }
    } catch (error) {
      scope[Symbol.dispose]()
      throw error
    }
  }

  /**
   * Computes the gradients of the blocks of a forward pass from the gradient of its result, [rows, hidden], and frees the saved
   * activations. The caller frees the gradients.
   */
  async backward (residuals: SavedActivations, gradient: AnyTensor): Promise<SpanGradients> {
    const { gradient: input, adapters } = await this.#backward(residuals, gradient, true)
    return { gradient: input!, adapters }
  }

  /** Does as `backward` where nothing before the span is trained, so that the gradient of its rows is not needed. */
  async backwardToParameters (residuals: SavedActivations, gradient: AnyTensor): Promise<SpanGradients['adapters']> {
    return (await this.#backward(residuals, gradient, false)).adapters
  }

  async #backward (
    residuals: SavedActivations,
    gradient: AnyTensor,
    toInput: boolean
  ): Promise<Pick<SpanGradients, 'adapters'> & { readonly gradient: DeviceTensor | undefined }> {
    return residuals.parts.length === 0
      ? await this.#backwardRun(residuals, gradient, toInput)
      : await this.#backwardGroups(residuals, gradient, toInput)
  }

  async #backwardGroups (
    residuals: SavedActivations,
    gradient: AnyTensor,
    toInput: boolean
  ): Promise<Pick<SpanGradients, 'adapters'> & { readonly gradient: DeviceTensor | undefined }> {
    using scope = new Scope(this.device)
    using adapters = new GradientSum(this.device)
    try {
      const whole = await scope.upload(gradient)
      const inputs: DeviceTensor[] = []
      let row = 0
      for (const part of residuals.parts) {
        const own = scope.own(await sliceRows(this.device, whole, row, row += part.rows))
        const result = await this.#backwardRun(part, own, toInput)
        if (result.gradient !== undefined) inputs.push(scope.own(result.gradient))
        await adapters.add(result.adapters)
      }
      return { gradient: toInput ? await concatRows(this.device, inputs) : undefined, adapters: adapters.take() }
    } finally {
      residuals.free()
    }
  }

  async #backwardRun (
    residuals: SavedActivations,
    gradient: AnyTensor,
    toInput: boolean
  ): Promise<Pick<SpanGradients, 'adapters'> & { readonly gradient: DeviceTensor | undefined }> {
    const scope = new Scope(this.device)
    const startedAtMs = performance.now()
    try {
      const adapters = new Map<string, DeviceTensor>()
      let current: DeviceTensor | undefined = await scope.upload(gradient)
      const passed = toInput ? residuals.blocks : this.#fromFirstTrained(residuals)
      for (const [i, { layer, hidden, saved }] of [...passed.entries()].reverse()) {
        const { parameters, backward, backwardToParameters } = this.#training(layer, residuals.policy)
        const dropout = await this.#dropout(scope, layer, residuals)
        const executable = i > 0 || toInput ? backward : await backwardToParameters()
        const results = await this.#pace.turn(async () => await executable.run({
          hidden,
          outputGradient: current!,
          ...saved,
          ...this.weights.blockInputs(layer),
          ...residuals.layout,
          ...dropout
        }, { keep: 'all' })) as Record<string, DeviceTensor>
        for (const result of Object.values(results)) scope.own(result)
        scope.free(...Object.values(dropout), ...(current === gradient ? [] : [current!]))
        for (const name of parameters) adapters.set(this.weights.parameterName(layer, name), results[`${name}.gradient`]!)
        current = results.inputGradient
      }
      if (residuals.blocks.length === 0 && toInput) current = await sliceRows(this.device, current!, 0, residuals.rows)
      scope.release([...(toInput ? [current!] : []), ...adapters.values()])
      if (residuals.blocks.length > 0)
        this.residuals.record(residuals.policy, {
          rows: residuals.rows * residuals.blocks.length,
          bytes: residuals.bytes,
          ms: residuals.forwardMs + performance.now() - startedAtMs
        })
      return { gradient: toInput ? current : undefined, adapters }
    } finally {
      scope[Symbol.dispose]()
      residuals.free()
    }
  }

  /** Returns the blocks that a gradient must reach. The blocks before them have nothing to train. */
  #fromFirstTrained ({ blocks, policy }: SavedActivations): BlockResiduals[] {
    const first = blocks.findIndex(({ layer }) => this.#training(layer, policy).parameters.length > 0)
    return first === -1 ? [] : blocks.slice(first)
  }

  /** Frees the span's weights. Only for spans that do not share them. */
  free (): void {
    this.weights.free()
  }

  async #evaluate (
    scope: Scope,
    layout: SavedActivations['layout'],
    layer: number,
    hidden: DeviceTensor
  ): Promise<Record<string, DeviceTensor>> {
    const { evaluate } = this.#block(layer)
    const inputs = { hidden, ...this.weights.blockInputs(layer), ...layout }
    const results = await this.#pace.turn(async () => await evaluate.run(inputs, { keep: 'all' })) as Record<string, DeviceTensor>
    scope.own(results.output!)
    return results
  }

  async #forward (scope: Scope, residuals: SavedActivations, layer: number, hidden: DeviceTensor): Promise<Record<string, DeviceTensor>> {
    const dropout = await this.#dropout(scope, layer, residuals)
    const { forward } = this.#training(layer, residuals.policy)
    const inputs = { hidden, ...this.weights.blockInputs(layer), ...residuals.layout, ...dropout }
    const results = await this.#pace.turn(async () => await forward.run(inputs, { keep: 'all' })) as Record<string, DeviceTensor>
    for (const result of Object.values(results)) scope.own(result)
    scope.free(...Object.values(dropout))
    return results
  }

  #block (layer: number): BlockExecutables {
    return this.#blocks[layer - this.span.first]!
  }

  #training (layer: number, policy: ResidualPolicy): TrainingExecutables {
    return this.#block(layer).training[policy]!
  }

  /** Makes the random bits of a block's adapters, which are the same for the same seeds. */
  async #dropout (scope: Scope, layer: number, { rows, seeds }: SavedActivations): Promise<Record<string, DeviceTensor>> {
    const { adapters } = this.weights.training(layer)
    if (adapters === undefined || adapters.dropout === 0) return {}
    if (seeds === undefined)
      throw new AdapterSettingsError(
        'adapters with dropout cannot be trained without a seed',
        'give the forward pass one, new for each step'
      )
    const bits: Record<string, DeviceTensor> = {}
    for (const { name, inputSize } of adapterTargets(this.model, adapters)) {
      bits[`${name}.dropout`] = scope.own(
        await this.device.randomBits(
          [rows, inputSize],
          seeds.map(({ rows, seed, from = 0 }) => ({
            key: dropoutKey(seed, layer, name),
            from: from * inputSize,
            elements: rows * inputSize
          }))
        )
      )
    }
    return bits
  }

  async #layout (scope: Scope, sequences: Sequences): Promise<SavedActivations['layout']> {
    const layout: Record<string, DeviceTensor> = { ...await this.weights.rotary.reaching(longest(sequences.lengths)) }
    for (
      const [name, part] of Object.entries<Tensor>({
        ...rowLayout(sequences),
        ...grownTables(this.model.rotary, sequences.lengths.map((count) => ({ from: 0, count })))
      })
    ) layout[name] = await scope.upload(part)
    return layout
  }

  #check ({ hidden, ...sequences }: HiddenStates, first: number, end: number): void {
    const { lengths } = sequences
    if (!(first >= this.span.first && first <= end && end <= this.span.end))
      throw new RangeError(`blocks [${first}, ${end}) are not within [${this.span.first}, ${this.span.end})`)
    const rows = lengths.reduce((sum, length) => sum + length, 0)
    const { shape: [count, width] } = hidden
    if (count !== rows || width !== this.model.hiddenSize)
      throw new RangeError(`hidden states [${hidden.shape.join(', ')}] do not fit ${rows} rows of ${this.model.hiddenSize}`)
    if (lengths.some((length) => length < 1 || length > this.model.maxPositions))
      throw new RangeError(`sequences have 1 to ${this.model.maxPositions} rows, not ${lengths.join(', ')}`)
    const fault = contextsFault(this.model, sequences)
    if (fault !== undefined) throw new RangeError(fault)
  }
}

/** Returns the seeds of rows [first, end) among those that the given ones are for. */
function seedsWithin (seeds: readonly RowSeed[], first: number, end: number): RowSeed[] {
  let start = 0
  return seeds.flatMap(({ rows, seed, from = 0 }) => {
    const [begin, stop] = [Math.max(first, start), Math.min(end, start + rows)]
    const within = { rows: stop - begin, seed, from: from + begin - start }
    start += rows
    return within.rows > 0 ? [within] : []
  })
}

async function blockExecutables (weights: ModelWeights, layer: number, policies: readonly ResidualPolicy[]): Promise<BlockExecutables> {
  const { device, model } = weights
  const block = weights.programKey(layer)
  const made = policies.map((policy) => ({
    policy,
    programs: blockPrograms({
      model,
      kind: kindOf(model, layer),
      training: weights.training(layer),
      format: weights.blockFormat(layer),
      rowType: weights.rowType
    }, policy)
  }))
  const [evaluate, training] = await Promise.all([
    compiled(device, `block.evaluate ${block}`, () => made[0]!.programs.evaluate),
    Promise.all(made.map(async ({ policy, programs }) => {
      const [forward, backward] = await Promise.all([
        compiled(device, `block.forward ${policy} ${block}`, () => programs.forward),
        compiled(device, `block.backward ${policy} ${block}`, () => programs.backward)
      ])
      const backwardToParameters = async (): Promise<Executable> =>
        await compiled(device, `block.backwardToParameters ${policy} ${block}`, programs.backwardToParameters)
      return [policy, { parameters: programs.parameters, forward, backward, backwardToParameters }] as const
    }))
  ])
  return { evaluate, training: Object.fromEntries(training) }
}
