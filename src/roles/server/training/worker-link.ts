import type { Encoding } from '../../../encoding.ts'
import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import { MAX_STAGE_TOKENS } from '../../../protocols/stage/constants.ts'
import type { StageCoordinatorChannel } from '../../../protocols/stage/messages.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkHiddenShapes, expectTensor } from '../../../protocols/wire/hidden-states.ts'
import { withSignal } from '../../../protocols/wire/wait.ts'
import { containsSpan, type Span } from '../../../span.ts'
import { isFiniteTensor, type Tensor } from '../../../tensor.ts'
import { groupsWithin } from '../../middle/segments.ts'
import { tokensOf, type BatchItem, type PassOptions } from '../../middle/stage.ts'
import { blockOf, type AdapterShape } from '../../training/aggregation/strategy.ts'
import type { StateCopy } from '../../training/coordinator-state.ts'
import { SpeedMeter, type CollectedGradients, type Holder, type HolderPass, type OutputGradients } from './holder.ts'
import { itemFields, joinRows, rowsOf, splitRows } from './stage-items.ts'
import { WorkerSession, type AdapterSource } from './worker-session.ts'

export interface WorkerLinkComponents {
  readonly peer: string
  readonly span: Span
  /** Opens a stage stream to the worker. */
  readonly open: (signal: AbortSignal) => Promise<StageCoordinatorChannel>
  readonly adapters: AdapterSource
  /** The state of training, where the worker may lead one day. */
  readonly copy?: () => StateCopy | undefined
  /** The coordinator's device: adapter gradients come to it. */
  readonly device: Device
  /** How hidden states are encoded, and how many values each has. */
  readonly format: { readonly wire: Encoding, readonly hidden: number }
  /** Names and shapes of what is trained in the span. */
  readonly shapes: readonly AdapterShape[]
  /** How long the worker may take for an answer. */
  readonly timeoutMs: number
  /** What the worker says of its own speed, until it was measured: tokens a second times blocks. */
  readonly announcedSpeed: () => number | undefined
}

/** Tensors that hidden states come as: values, and scales. */
const MAX_ROW_TENSORS = 2

/** Blocks on a worker. Of what comes back the shapes are checked; of values whoever has them knows more. */
export class WorkerLink implements Holder {
  readonly peer: string
  readonly isLocal = false
  readonly span: Span
  readonly #c: WorkerLinkComponents
  readonly #meter = new SpeedMeter()
  readonly #closing = new AbortController()
  #session: Promise<WorkerSession> | undefined

  constructor (components: WorkerLinkComponents) {
    this.#c = components
    this.peer = components.peer
    this.span = components.span
  }

  get speed (): number | undefined { return this.#meter.speed ?? this.#c.announcedSpeed() }

  /** Brings the worker's adapters to the round of training, so that what it generates with and computes next is not behind. */
  async refresh (signal: AbortSignal): Promise<void> {
    const session = await this.#ready(signal)
    if (this.#c.copy !== undefined) await session.keep(this.#c.copy, signal)
  }

  async forward (
    items: readonly BatchItem[],
    { dropoutSeed }: Pick<PassOptions, 'dropoutSeed'>,
    signal: AbortSignal
  ): Promise<HolderPass> {
    const session = await this.#ready(signal)
    const askedAtMs = performance.now()
    const pass = await RemotePass.start(session, this.#c, { items, dropoutSeed }, signal)
    this.#meter.done(items, askedAtMs)
    return pass
  }

  async evaluate (item: BatchItem, signal: AbortSignal): Promise<readonly Tensor[]> {
    const session = await this.#ready(signal)
    const question = { case: 'evaluate' as const, value: { round: session.round, item: itemFields(item) } }
    const { tensors } = await session.ask({ question, tensors: item.tensors, kind: 'evaluated' }, signal)
    checkHiddenShapes(tensors, { ...this.#c.format, rows: tokensOf(item.tensors) })
    return tensors
  }

  /** Ends the stream, and all that is under way on it. */
  close (error: Error): void {
    this.#closing.abort(error)
    this.#session?.then((session) => { session.abort(error) }, () => {})
  }

  async #ready (signal: AbortSignal): Promise<WorkerSession> {
    for (;;) {
      const opening = this.#session ??= this.#open()
      const session = await withSignal(opening, signal)
      if (!session.isOver) {
        await session.bring(this.#c.adapters, this.span, signal)
        return session
      }
      if (this.#session === opening) this.#session = undefined
    }
  }

  async #open (): Promise<WorkerSession> {
    const { open, timeoutMs, shapes } = this.#c
    try {
      this.#closing.signal.throwIfAborted()
      return new WorkerSession(await open(this.#closing.signal), { timeoutMs, maxTensors: Math.max(shapes.length, MAX_ROW_TENSORS) })
    } catch (error) {
      this.#session = undefined
      throw error
    }
  }
}

/** Items that one message brought to a worker. */
interface Group {
  /** The number of the Forward. */
  readonly request: number
  readonly items: readonly BatchItem[]
  hasGradients: boolean
}

interface RemoteBatch {
  readonly items: readonly BatchItem[]
  readonly dropoutSeed: string
}

/** Items whose activations a worker keeps, as long as the stream lives. */
class RemotePass implements HolderPass {
  readonly hidden = new Map<string, readonly Tensor[]>()
  readonly #session: WorkerSession
  readonly #c: WorkerLinkComponents
  readonly #groups: Group[] = []
  #isFreed = false

  private constructor (session: WorkerSession, components: WorkerLinkComponents) {
    this.#session = session
    this.#c = components
  }

  static async start (
    session: WorkerSession,
    components: WorkerLinkComponents,
    batch: RemoteBatch,
    signal: AbortSignal
  ): Promise<RemotePass> {
    const pass = new RemotePass(session, components)
    try {
      await pass.#forward(batch, signal)
      return pass
    } catch (error) {
      pass.free()
      throw error
    }
  }

  async backward (gradients: OutputGradients, signal: AbortSignal): Promise<ReadonlyMap<string, readonly Tensor[]>> {
    const inputs = new Map<string, readonly Tensor[]>()
    await Promise.all(this.#groups.map(async (group) => {
      const items = group.items.flatMap((item, place) => gradients.has(item.id) ? [{ item, place }] : [])
      if (items.length === 0) return
      group.hasGradients = true
      const { tensors } = await this.#session.ask({
        question: { case: 'backward', value: { forward: group.request, items: items.map(({ place }) => place) } },
        tensors: joinRows(items.map(({ item: { id } }) => gradients.get(id)?.tensors ?? [])),
        kind: 'inputGradients'
      }, signal)
      this.#take(tensors, items.map(({ item }) => item), inputs)
    }))
    return inputs
  }

  async collect (signal: AbortSignal): Promise<CollectedGradients> {
    const groups = this.#groups.filter(({ hasGradients }) => hasGradients)
    if (groups.length === 0) return { gradients: new Map(), isFinite: true }
    const { names, tensors } = await this.#session.ask({
      question: { case: 'collect', value: { forwards: groups.map(({ request }) => request) } },
      kind: 'adapterGradients'
    }, signal)
    const expected = new Map(this.#shapesOf(groups).map(({ name, shape }) => [name, shape]))
    if (names.length !== expected.size || tensors.length !== names.length)
      throw new BadMessageError(`${names.length} adapter gradients came from a worker: expected ${expected.size}`)
    for (const [index, name] of names.entries()) {
      const shape = expected.get(name)
      if (shape === undefined) throw new BadMessageError('a worker sent an adapter gradient twice, or one that it was not asked for')
      expected.delete(name)
      expectTensor(`gradients of ${name}`, tensors[index], 'float32', shape)
    }
    return { gradients: await this.#upload(names, tensors), isFinite: tensors.every(isFiniteTensor) }
  }

  free (): void {
    if (!this.#isFreed && this.#groups.length > 0)
      this.#session.tell({ case: 'free', value: { forwards: this.#groups.map(({ request }) => request) } })
    this.#isFreed = true
  }

  async #forward ({ items, dropoutSeed }: RemoteBatch, signal: AbortSignal): Promise<void> {
    const session = this.#session
    const { round } = session
    await Promise.all(groupsWithin(items, ({ tensors }) => tokensOf(tensors), MAX_STAGE_TOKENS).map(async (own) => {
      const request = session.number()
      this.#groups.push({ request, items: own, hasGradients: false })
      const answer = await session.ask({
        request,
        question: { case: 'forward', value: { round, dropoutSeed, items: own.map(itemFields) } },
        tensors: joinRows(own.map((item) => item.tensors)),
        kind: 'hidden'
      }, signal)
      this.#take(answer.tensors, own, this.hidden)
    }))
  }

  /** Gives each item its rows of an answer. Throws BadMessageError for other rows than these items have. */
  #take (tensors: readonly Tensor[], items: readonly BatchItem[], target: Map<string, readonly Tensor[]>): void {
    const rows = rowsOf(items)
    checkHiddenShapes(tensors, { ...this.#c.format, rows: rows.reduce((sum, count) => sum + count, 0) })
    for (const [index, own] of splitRows(tensors, rows).entries()) target.set((items[index] as BatchItem).id, own)
  }

  /** What is trained in the blocks that groups passed. */
  #shapesOf (groups: readonly Group[]): AdapterShape[] {
    const passed = groups.flatMap(({ items }) => items)
    return this.#c.shapes.filter(({ name }) => {
      const block = blockOf(name)
      return passed.some((item) => containsSpan(item, { first: block, end: block + 1 }))
    })
  }

  async #upload (names: readonly string[], tensors: readonly Tensor[]): Promise<Map<string, DeviceTensor>> {
    using scope = new Scope(this.#c.device)
    const uploaded = new Map<string, DeviceTensor>()
    for (const [index, name] of names.entries()) uploaded.set(name, await scope.upload(tensors[index] as Tensor))
    scope.release([...uploaded.values()])
    return uploaded
  }
}
