import { MidspanError } from '../../../errors.ts'
import type { Model } from '../../../model/families/index.ts'
import { GradientSum } from '../../../model/layers/gradient-sum.ts'
import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import {
  MAX_ADAPTER_PART_BYTES,
  MAX_DROPOUT_SEED_CHARS,
  MAX_ITEM_ID_CHARS,
  MAX_STAGE_ITEMS,
  MAX_STAGE_TOKENS
} from '../../../protocols/stage/constants.ts'
import { fromWorker, type Answer, type CoordinatorMessage, type Item, type StageWorkerChannel } from '../../../protocols/stage/messages.ts'
import type { Backward, Forward, KeepState, LoadAdapters } from '../../../protocols/stage/stage_pb.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkHiddenStates } from '../../../protocols/wire/hidden-states.ts'
import { containsSpan } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { LocalForwardPass, LocalStage } from '../../middle/local-stage.ts'
import type { BatchItem } from '../../middle/stage.ts'
import { checkSequences } from '../checks.ts'
import { joinRows, partsWithin, rowsOf, splitRows } from './stage-items.ts'
import type { Standby } from './standby.ts'
import type { WorkerAdapters } from './worker-adapters.ts'

/** Thrown at everybody but the coordinator. */
export class NotCoordinatorError extends MidspanError {
  constructor () {
    super('E_NOT_COORDINATOR', 'only the coordinator of the federation may have this server compute for it')
  }
}

/** Thrown where a coordinator asks for a pass with other adapters than it sent. */
export class AdaptersOutdatedError extends MidspanError {
  constructor (round: number | undefined, wanted: number) {
    super('E_ADAPTERS_OUTDATED', `the adapters here are ${round === undefined ? 'those of no round' : `of round ${round}`}, not of round ${wanted}`, {
      next: 'send them first'
    })
  }
}

/** Thrown where a coordinator keeps more passes open than a round has. */
export class TooManyPassesError extends MidspanError {
  constructor (what: string, limit: number) {
    super('E_TOO_MANY_PASSES', `more than ${limit} ${what} would be kept at a time`, { next: 'free passes that are over' })
  }
}

/** How many times the tokens of all clients a worker keeps: a pass, and what is computed again of it for others. */
const KEPT_ROUNDS = 2

/** Forwards that are kept, beside those that hold one client each: a batch is cut into several. */
const SPARE_PASSES = 8

export interface StageSessionComponents {
  readonly charter: Charter
  readonly model: Model
  readonly device: Device
  readonly stage: LocalStage
  readonly adapters: WorkerAdapters
  /** Where a copy of the state of training is kept, which the coordinator sends to servers that may lead one day. */
  readonly standby?: Standby
}

/** A Forward whose activations are kept. */
interface Kept {
  readonly pass: LocalForwardPass
  readonly items: readonly BatchItem[]
  readonly tokens: number
  hasGradients: boolean
}

/**
 * The coordinator's stream to this worker: does what it is asked, in order. Whatever does not fit ends the stream with a typed error, and
 * everything that was kept for it is freed.
 */
export class StageSession {
  readonly #channel: StageWorkerChannel
  readonly #c: StageSessionComponents
  readonly #kept = new Map<number, Kept>()
  /** The round of the adapters that came on this stream: another coordinator may have sent others before. */
  #round: number | undefined
  /** What has come of LoadAdapters. */
  #loading: { readonly request: number, readonly values: Map<string, Tensor> } | undefined
  /** The number of the KeepState whose parts are coming. */
  #keeping: number | undefined
  #lastRequest = -1
  #isBusy = false

  constructor (channel: StageWorkerChannel, components: StageSessionComponents) {
    this.#channel = channel
    this.#c = components
  }

  /** Whether nothing is kept of a round, and nothing is being done or is half here. */
  get isIdle (): boolean {
    return !this.#isBusy && this.#kept.size === 0 && this.#loading === undefined && this.#keeping === undefined
  }

  /** Serves the stream until it ends. Rejects with what ended it. */
  async run (signal: AbortSignal): Promise<void> {
    try {
      for (;;) {
        const received = await this.#channel.receive(signal)
        this.#isBusy = true
        await this.#handle(received)
        this.#isBusy = false
      }
    } finally {
      for (const { pass } of this.#kept.values()) pass.free()
      this.#kept.clear()
      this.#loading = undefined
      this.#keeping = undefined
      this.#isBusy = false
    }
  }

  async #handle ({ message: { request, kind }, tensors }: Received<CoordinatorMessage>): Promise<void> {
    // The parts of a state come between other questions.
    if (kind.case === 'keepState') return await this.#keepState(request, kind.value, tensors)
    const goesOn = kind.case === 'loadAdapters' && this.#loading?.request === request
    if (!goesOn && (request <= this.#lastRequest || this.#loading !== undefined))
      throw new BadMessageError('the questions of the coordinator are not in order')
    this.#lastRequest = request
    switch (kind.case) {
      case 'loadAdapters':
        return await this.#load(request, kind.value, tensors)
      case 'forward':
        return await this.#forward(request, kind.value, tensors)
      case 'backward':
        return await this.#backward(request, kind.value, tensors)
      case 'collect':
        return await this.#collect(request, kind.value.forwards)
      case 'free':
        return this.#free(kind.value.forwards)
      case 'evaluate':
        return await this.#evaluate(request, kind.value.round, kind.value.item, tensors)
      default:
        throw new BadMessageError('the message is of no known kind')
    }
  }

  async #load (request: number, { round, names, more }: LoadAdapters, tensors: readonly Tensor[]): Promise<void> {
    const { values } = this.#loading ??= { request, values: new Map() }
    for (const [name, value] of this.#c.adapters.check(names, tensors)) {
      if (values.has(name)) throw new BadMessageError('an adapter came twice')
      values.set(name, value)
    }
    if (more) {
      if (names.length === 0) throw new BadMessageError('a part of the adapters is empty')
      return
    }
    this.#loading = undefined
    // What was computed with other adapters has no gradients any more.
    this.#free([...this.#kept.keys()])
    await this.#c.adapters.take(round, values)
    this.#round = round
    await this.#answer(request, { case: 'loaded', value: { round } })
  }

  async #keepState (request: number, { round, meta, names, more }: KeepState, tensors: readonly Tensor[]): Promise<void> {
    const { standby } = this.#c
    if (standby === undefined) throw new BadMessageError('this server keeps no state of training')
    if (this.#keeping === undefined) standby.clear()
    else if (this.#keeping !== request) throw new BadMessageError('the parts of a state are not in order')
    standby.add(meta, names, tensors)
    if (more) {
      if (names.length === 0) throw new BadMessageError('a part of a state is empty')
      this.#keeping = request
      return
    }
    this.#keeping = undefined
    await standby.write(round)
    await this.#answer(request, { case: 'stateKept', value: { round } })
  }

  async #forward (request: number, { round, dropoutSeed, items: fields }: Forward, tensors: readonly Tensor[]): Promise<void> {
    this.#checkRound(round)
    if (dropoutSeed.length > MAX_DROPOUT_SEED_CHARS) throw new BadMessageError('the name of a pass is too long')
    const items = this.#itemsOf(fields, tensors)
    const tokens = rowsOf(items).reduce((sum, rows) => sum + rows, 0)
    this.#checkKept(tokens)
    const pass = await this.#c.stage.forward(items, { dropoutSeed })
    this.#kept.set(request, { pass, items, tokens, hasGradients: false })
    await this.#answer(request, { case: 'hidden', value: {} }, joinRows(items.map(({ id }) => pass.hidden.get(id) ?? [])))
  }

  async #backward (request: number, { forward, items: places }: Backward, tensors: readonly Tensor[]): Promise<void> {
    const kept = this.#keptOf(forward)
    if (kept.hasGradients) throw new BadMessageError('a pass goes back once')
    const items = places.map((place, index) => {
      const item = kept.items[place]
      if (item === undefined || (index > 0 && place <= (places[index - 1] as number)))
        throw new BadMessageError('the items of a pass are named in order, each once')
      return item
    })
    if (items.length === 0) throw new BadMessageError('a pass goes back for one item at least')
    const rows = rowsOf(items)
    this.#checkRows(tensors, rows)
    const gradients = splitRows(tensors, rows)
    kept.hasGradients = true
    const inputs = await kept.pass.backward(new Map(items.map(({ id }, index) => [id, { tensors: gradients[index] as readonly Tensor[] }])))
    await this.#answer(request, { case: 'inputGradients', value: {} }, joinRows(items.map(({ id }) => inputs.get(id) ?? [])))
  }

  async #collect (request: number, forwards: readonly number[]): Promise<void> {
    const { device } = this.#c
    if (forwards.length === 0 || new Set(forwards).size !== forwards.length)
      throw new BadMessageError('gradients are asked of one pass at least, and of each once')
    using sum = new GradientSum(device)
    for (const forward of forwards) {
      const kept = this.#keptOf(forward)
      if (!kept.hasGradients) throw new BadMessageError('a pass that did not go back has no gradients')
      await sum.add(kept.pass.takeGradients())
    }
    const named = await downloaded(device, sum.gradients)
    const parts = partsWithin(named, MAX_ADAPTER_PART_BYTES)
    for (const [index, part] of parts.entries()) {
      const more = index < parts.length - 1
      await this.#answer(
        request,
        { case: 'adapterGradients', value: { names: part.map(({ name }) => name), more } },
        part.map(({ value }) => value)
      )
    }
  }

  /** Frees passes. Those that are not kept were freed before. */
  #free (forwards: readonly number[]): void {
    for (const forward of forwards) {
      this.#kept.get(forward)?.pass.free()
      this.#kept.delete(forward)
    }
  }

  async #evaluate (request: number, round: number, fields: Item | undefined, tensors: readonly Tensor[]): Promise<void> {
    this.#checkRound(round)
    const [item] = this.#itemsOf(fields === undefined ? [] : [fields], tensors)
    const hidden = await this.#c.stage.evaluate(item as BatchItem)
    await this.#answer(request, { case: 'evaluated', value: {} }, hidden)
  }

  /** Reads items, each with its own rows. Throws BadMessageError. */
  #itemsOf (fields: readonly Item[], tensors: readonly Tensor[]): BatchItem[] {
    const { charter, model, stage } = this.#c
    if (fields.length === 0 || fields.length > MAX_STAGE_ITEMS)
      throw new BadMessageError(`${fields.length} items came: expected 1 to ${MAX_STAGE_ITEMS}`)
    if (new Set(fields.map(({ id }) => id)).size !== fields.length) throw new BadMessageError('two items have one name')
    const checked = fields.map((item) => {
      const { id, first, end } = item
      if (id.length === 0 || id.length > MAX_ITEM_ID_CHARS)
        throw new BadMessageError(`an item has a name of ${id.length} characters: expected 1 to ${MAX_ITEM_ID_CHARS}`)
      if (first >= end || !containsSpan(stage.span, { first, end }))
        throw new BadMessageError(`blocks ${first} to ${end} were asked for: this server has ${stage.span.first} to ${stage.span.end}`)
      return { id, first, end, ...checkSequences(charter, model, item) }
    })
    const rows = checked.map((item) => item.rows)
    const total = rows.reduce((sum, count) => sum + count, 0)
    if (checked.length > 1 && total > MAX_STAGE_TOKENS)
      throw new BadMessageError(`${total} tokens of several clients came at once: ${MAX_STAGE_TOKENS} may`)
    this.#checkRows(tensors, rows)
    const own = splitRows(tensors, rows)
    return checked.map(({ id, first, end, sequences }, index) => ({
      id, first, end, ...sequences, tensors: own[index] as readonly Tensor[]
    }))
  }

  #checkRows (tensors: readonly Tensor[], rows: readonly number[]): void {
    const { wire, model: { hidden } } = this.#c.charter
    checkHiddenStates(tensors, { wire, hidden, rows: rows.reduce((sum, count) => sum + count, 0) })
  }

  #checkRound (round: number): void {
    if (round !== this.#round || round !== this.#c.adapters.round) throw new AdaptersOutdatedError(this.#round, round)
  }

  /** Checks that a pass of this many tokens may be kept beside the others. Throws TooManyPassesError. */
  #checkKept (tokens: number): void {
    const { limits: { maxClients }, training: { maxTokensPerClient } } = this.#c.charter
    const maxPasses = KEPT_ROUNDS * maxClients + SPARE_PASSES
    const maxTokens = KEPT_ROUNDS * maxClients * maxTokensPerClient
    const all = [...this.#kept.values()].reduce((sum, kept) => sum + kept.tokens, tokens)
    if (this.#kept.size >= maxPasses) throw new TooManyPassesError('passes', maxPasses)
    if (all > maxTokens) throw new TooManyPassesError('tokens', maxTokens)
  }

  #keptOf (forward: number): Kept {
    const kept = this.#kept.get(forward)
    if (kept === undefined) throw new BadMessageError('a pass was named that is not kept')
    return kept
  }

  async #answer (request: number, kind: Answer, tensors: readonly Tensor[] = []): Promise<void> {
    await this.#channel.send(fromWorker(request, kind), tensors)
  }
}

/** Copies named tensors to the host, in the order of their names. */
async function downloaded (
  device: Device,
  tensors: ReadonlyMap<string, DeviceTensor>
): Promise<Array<{ readonly name: string, readonly value: Tensor }>> {
  const ordered = [...tensors].sort(([a], [b]) => a < b ? -1 : 1)
  const values = await device.downloadAll(ordered.map(([, value]) => value))
  return ordered.map(([name], index) => ({ name, value: values[index] as Tensor }))
}
