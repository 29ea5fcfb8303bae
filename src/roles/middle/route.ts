import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import { RouteCache, type RouteOptions } from './route-cache.ts'
import { FixedStages, partsOf } from './stage-source.ts'
import type { BatchItem, ForwardPass, OutputGradient, PassOptions, Stage, StageCache } from './stage.ts'

/** The ordered stages that carry one client's middle. It is a stage itself. */
export class Route implements Stage {
  readonly span: Span
  readonly #stages: readonly Stage[]
  readonly #options: RouteOptions

  /** Throws RangeError unless each stage begins where the one before ends. */
  constructor (stages: readonly Stage[], options: RouteOptions = {}) {
    const [first, last] = [stages[0], stages.at(-1)]
    if (first === undefined || last === undefined) throw new RangeError('a route has at least one stage')
    if (stages.some(({ span }, i) => i > 0 && span.first !== stages[i - 1]?.span.end))
      throw new RangeError('a stage of a route begins where the one before ends')
    this.span = { first: first.span.first, end: last.span.end }
    this.#stages = stages
    this.#options = options
  }

  async forward (items: readonly BatchItem[], options: PassOptions, signal?: AbortSignal): Promise<ForwardPass> {
    const passes: StagePass[] = []
    let hidden: ReadonlyMap<string, readonly Tensor[]> = new Map(items.map(({ id, tensors }) => [id, tensors]))
    try {
      for (const stage of this.#stages) {
        const parts = items.flatMap((item) => partsOf(item, stage).map((part) => ({ ...part, tensors: hidden.get(item.id) ?? [] })))
        if (parts.length === 0) continue
        const pass = await stage.forward(parts, options, signal)
        passes.push({ pass, ids: new Set(parts.map(({ id }) => id)) })
        hidden = new Map([...hidden, ...pass.hidden])
      }
      return new RoutePass(passes, hidden)
    } catch (error) {
      for (const { pass } of passes) pass.free()
      throw error
    }
  }

  async evaluate (item: BatchItem, signal?: AbortSignal): Promise<readonly Tensor[]> {
    let { tensors } = item
    for (const stage of this.#stages)
      for (const part of partsOf(item, stage)) tensors = await stage.evaluate({ ...part, tensors }, signal)
    return tensors
  }

  /** Opens a cache that outlives the stages' own: a stage that is lost is opened again and gets what it had got before. */
  async openCache (span: Span, capacity: number, signal?: AbortSignal): Promise<StageCache> {
    return await RouteCache.open(new FixedStages(this.#stages), span, { ...this.#options, capacity }, signal)
  }
}

interface StagePass {
  readonly pass: ForwardPass
  /** The items that the stage computed. */
  readonly ids: ReadonlySet<string>
}

class RoutePass implements ForwardPass {
  readonly hidden: ReadonlyMap<string, readonly Tensor[]>
  readonly #passes: readonly StagePass[]

  constructor (passes: readonly StagePass[], hidden: ReadonlyMap<string, readonly Tensor[]>) {
    this.#passes = passes
    this.hidden = hidden
  }

  async backward (gradients: ReadonlyMap<string, OutputGradient>, signal?: AbortSignal): Promise<ReadonlyMap<string, readonly Tensor[]>> {
    const current = new Map(gradients)
    for (const { pass, ids } of this.#passes.toReversed()) {
      const inputs = await pass.backward(new Map([...current].filter(([id]) => ids.has(id))), signal)
      for (const [id, tensors] of inputs) current.set(id, { tokens: gradients.get(id)?.tokens ?? 0, tensors })
    }
    return new Map([...current].map(([id, { tensors }]) => [id, tensors]))
  }

  free (): void {
    for (const { pass } of this.#passes) pass.free()
  }
}
