import { isDefect, MidspanError } from '../../../errors.ts'
import { accumulate } from '../../../model/layers/gradient-sum.ts'
import type { Device, DeviceTensor } from '../../../model/runtime/device.ts'
import { isSane } from '../../../protocols/wire/hidden-states.ts'
import { blocksText, commonSpan, containsSpan, uncovered, type Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { Logger } from '../../logger.ts'
import { groupsWithin } from '../../middle/segments.ts'
import { tokensOf, type BatchItem } from '../../middle/stage.ts'
import { gradientName, type Replicas } from '../../training/hierarchy/replicas.ts'
import type { StageOutput } from '../../training/participant.ts'
import { workOf, type CollectedGradients, type Holder, type HolderPass, type Holders, type OutputGradients } from './holder.ts'
import { stageFrom, spread, type ReplicatedStage } from './spread.ts'

export interface DistributedPassComponents {
  readonly device: Device
  readonly holders: Holders
  /** Who computes for whom, where servers of the same blocks have parameters of their own; gradients are then summed by server. */
  readonly replicas?: Replicas | undefined
  /** How long a server with parameters of its own is waited for where others have its blocks. */
  readonly replicaGraceMs?: number
  readonly logger: Logger
  /** Called with the blocks that a pass waits for since nobody serves them, and with none once they are served. */
  readonly missing: (pass: object, spans: readonly Span[]) => void
  /** Ends every wait. */
  readonly signal: AbortSignal
}

/** A worker that is started again is back within a minute. Its clients then keep their server until the next average. */
const REPLICA_GRACE_MS = 60_000

/** How often a server is looked for that nobody can take the place of. */
const MIN_LOOK_MS = 1_000

/** Thrown out of a round whose clients have another server from now on: the round begins anew. */
export class ReplicaGivenUpError extends MidspanError {
  constructor (peer: string, span: Span) {
    super('E_REPLICA_GIVEN_UP', `${peer} has been away for too long: other servers of ${blocksText([span])} go on with its clients`, {
      retryable: true
    })
  }
}

/**
 * Tokens of a micro-batch, at least: with fewer of them products take hardly less time. A pass through several stages is computed in
 * micro-batches, so that a stage works while those before and after it do.
 */
const MIN_MICRO_BATCH_TOKENS = 1024

/** Micro-batches for each stage that a pass goes through, at most: 2 have two stages busy for 4 fifths of the time, and few cost memory. */
const MICRO_BATCHES_PER_STAGE = 2

/** An item on its way through some of its blocks. */
interface Piece extends BatchItem {
  /** Whether other pieces of the item come before this one, and after it. */
  readonly hasBefore: boolean
  readonly hasAfter: boolean
}

/** Pieces that one holder computed through consecutive blocks, with what it takes to compute them again elsewhere. */
interface Share extends Span {
  readonly holder: Holder
  /** The pieces with their hidden states before block `first`. */
  readonly items: readonly Piece[]
  readonly pass: HolderPass
}

/** What became of items on their way through blocks: the shares, each after those that it follows from, and the last hidden states. */
interface Computed {
  readonly shares: readonly Share[]
  readonly outputs: ReadonlyMap<string, readonly Tensor[]>
}

/** Adapter gradients of one share, and where they have their place in the sum. */
interface Addend {
  readonly place: string
  readonly gradients: Map<string, DeviceTensor>
}

/**
 * One pass of several clients' hidden states through spans that different servers hold. The middle is cut where its holders change; of
 * each stage the items are spread over its holders, which compute at the same time, and the stages follow one another. What enters
 * each share is kept, in the encoding of the wire, until its gradients are there: where a holder is lost, its items are computed again by
 * others, or as soon as there is somebody who holds these blocks. Dropout follows from the client alone, so that it is the same anywhere,
 * and gradients are added in the order of blocks and peer ids.
 */
export class DistributedPass implements StageOutput {
  hidden: ReadonlyMap<string, readonly Tensor[]> = new Map()
  adapterGradients = new Map<string, DeviceTensor>()
  readonly unsound = new Set<string>()
  readonly #c: DistributedPassComponents
  readonly #dropoutSeed: string
  readonly #passes = new Set<HolderPass>()
  #shares: readonly Share[] = []
  /** Tokens, times blocks, that each holder has been given and not computed. */
  readonly #queued = new Map<string, number>()
  /** Shares whose adapter gradients are being collected. */
  readonly #collecting: Array<Promise<void>> = []
  readonly #addends: Addend[] = []

  private constructor (components: DistributedPassComponents, dropoutSeed: string) {
    this.#c = components
    this.#dropoutSeed = dropoutSeed
  }

  /** Computes items through their blocks. The caller frees the pass. Items whose values overflow are left out. */
  static async start (
    components: DistributedPassComponents,
    items: readonly BatchItem[],
    dropoutSeed: string
  ): Promise<DistributedPass> {
    const pass = new DistributedPass(components, dropoutSeed)
    try {
      await pass.#forward(items)
      return pass
    } catch (error) {
      pass.free()
      throw error
    }
  }

  async backward (gradients: OutputGradients): Promise<ReadonlyMap<string, readonly Tensor[]>> {
    const wanted = [...gradients].filter(([id]) => this.hidden.has(id))
    let inputs: ReadonlyMap<string, readonly Tensor[]>
    try {
      inputs = await this.#back(this.#shares, new Map(wanted.map(([id, { tensors }]) => [id, tensors])))
    } finally {
      // Where a holder is lost while it is asked for its gradients, others compute them and are asked in their turn.
      while (this.#collecting.length > 0) await settled(this.#collecting.splice(0))
    }
    this.#shares = []
    for (const { gradients: addend } of this.#addends.toSorted((a, b) => a.place < b.place ? -1 : 1)) {
      // From here on `accumulate` owns them.
      const own = new Map(addend)
      addend.clear()
      await accumulate(this.#c.device, this.adapterGradients, own)
    }
    this.#addends.length = 0
    return inputs
  }

  takeGradients (): Map<string, DeviceTensor> {
    const gradients = this.adapterGradients
    this.adapterGradients = new Map()
    return gradients
  }

  free (): void {
    this.#c.missing(this, [])
    for (const pass of [...this.#passes]) this.#free(pass)
    this.#c.device.free(...this.takeGradients().values(), ...this.#addends.splice(0).flatMap(({ gradients }) => [...gradients.values()]))
  }

  async #forward (items: readonly BatchItem[]): Promise<void> {
    const { replicas, holders } = this.#c
    replicas?.admit(holders.available())
    replicas?.assign(items)
    for (let sound = items; sound.length > 0;) {
      const computed = await settled(this.#microBatches(sound).map(async (batch) =>
        await this.#through(batch.map((item) => ({ ...item, hasBefore: false, hasAfter: false })))))
      const shares = computed.flatMap((batch) => batch.shares)
      this.#shares = shares
      this.hidden = new Map(computed.flatMap(({ outputs }) => [...outputs]))
      if (sound.every(({ id }) => !this.unsound.has(id))) return
      // The others' pass is as if those had never come whose values overflow.
      for (const { pass } of shares) this.#free(pass)
      sound = sound.filter(({ id }) => !this.unsound.has(id))
    }
    this.#shares = []
    this.hidden = new Map()
  }

  /** Splits a pass into micro-batches, where several stages follow one another and there are tokens enough. */
  #microBatches (items: readonly BatchItem[]): ReadonlyArray<readonly BatchItem[]> {
    const end = Math.max(...items.map((item) => item.end))
    const holders = this.#c.holders.available()
    let stages = 0
    for (let position = Math.min(...items.map(({ first }) => first)); position < end; stages++)
      position = stageFrom(position, end, holders)?.end ?? end
    const tokens = items.reduce((sum, { tensors }) => sum + tokensOf(tensors), 0)
    const count = Math.min(MICRO_BATCHES_PER_STAGE * stages, Math.floor(tokens / MIN_MICRO_BATCH_TOKENS))
    if (stages < 2 || count < 2) return [items]
    return groupsWithin(items, ({ tensors }) => tokensOf(tensors), Math.ceil(tokens / count))
  }

  /** Computes items, each through its own blocks, on whoever holds these. Items whose values overflow have no outputs. */
  async #through (items: readonly Piece[]): Promise<Computed> {
    const states = new Map(items.map(({ id, tensors }) => [id, tensors]))
    const shares: Share[] = []
    const end = Math.max(...items.map((item) => item.end))
    for (let position = Math.min(...items.map(({ first }) => first)); position < end;) {
      const present = items.filter((item) => states.has(item.id) && item.first <= position && position < item.end)
      const later = items.filter((item) => states.has(item.id) && item.first > position)
      if (present.length === 0) {
        if (later.length === 0) break
        position = Math.min(...later.map(({ first }) => first))
        continue
      }
      const stage = await this.#stage(position, Math.max(...present.map((item) => item.end)))
      const active = items.flatMap((item) => {
        const tensors = states.get(item.id)
        const span = commonSpan(item, stage)
        if (tensors === undefined || span === undefined) return []
        const piece = {
          ...item,
          ...span,
          tensors,
          hasBefore: item.hasBefore || item.first < span.first,
          hasAfter: item.hasAfter || span.end < item.end
        }
        return [{ ...piece, work: workOf([piece]) }]
      })
      const spreaded = this.#c.replicas === undefined
        ? spread(active, stage.replicas, ({ peer }) => this.#queued.get(peer) ?? 0)
        : await this.#assigned(this.#c.replicas, active, stage)
      const computed = await settled(spreaded.map(async ({ holder, items: share }) => await this.#computeOn(holder, stage, share)))
      for (const { shares: own } of computed) shares.push(...own)
      for (const { id } of active) states.delete(id)
      for (const { outputs } of computed) for (const [id, tensors] of outputs) states.set(id, tensors)
      position = stage.end
    }
    return { shares, outputs: states }
  }

  /** Computes items on one holder, or on others where it fails. */
  async #computeOn (holder: Holder, { first, end }: Span, items: readonly Piece[]): Promise<Computed> {
    const { signal, holders } = this.#c
    const work = workOf(items)
    let pass: HolderPass
    this.#queue(holder, work)
    try {
      pass = await holder.forward(items, { dropoutSeed: this.#dropoutSeed }, signal)
      this.#passes.add(pass)
    } catch (error) {
      this.#lost(holder, error)
      return await this.#through(items)
    } finally {
      this.#queue(holder, -work)
    }
    const share: Share = { first, end, holder, items, pass }
    // What this device computes last goes to clients, who look at it themselves.
    const looked = holder.isLocal ? items.filter(({ hasAfter }) => hasAfter) : items
    const bad = looked.filter(({ id }) => !isSane(pass.hidden.get(id) ?? []))
    if (bad.length === 0) return { shares: [share], outputs: pass.hidden }
    if (await this.#isToBlame(share, bad, async (other) => await this.#areOutputsSane(other, bad))) {
      this.#free(pass)
      holders.faulty(holder, 'its hidden states are not finite, or far too large')
      return await this.#through(items)
    }
    for (const { id } of bad) this.#doubt(id)
    return { shares: [share], outputs: new Map([...pass.hidden].filter(([id]) => !this.unsound.has(id))) }
  }

  /** Takes gradients back through shares. Resolves with those of the inputs; an item whose gradients overflow has none. */
  async #back (
    shares: readonly Share[],
    gradients: ReadonlyMap<string, readonly Tensor[]>
  ): Promise<Map<string, readonly Tensor[]>> {
    const states = new Map(gradients)
    // Each share waits for those shares that its items pass next.
    const next = new Map<string, Promise<void>>()
    await settled(shares.toReversed().map(async (share) => {
      const before = share.items.flatMap(({ id }) => next.get(id) ?? [])
      const run = (async () => {
        await Promise.all(before)
        await this.#backShare(share, states)
      })()
      for (const { id } of share.items) next.set(id, run)
      await run
    }))
    return states
  }

  /** Replaces the gradients after a share by those before it. */
  async #backShare (share: Share, states: Map<string, readonly Tensor[]>): Promise<void> {
    const { pass, holder } = share
    const items = share.items.filter(({ id }) => states.has(id))
    const gradients = new Map(items.map(({ id }) => [id, { tensors: states.get(id) ?? [] }]))
    if (items.length === 0) return this.#free(pass)
    let inputs: ReadonlyMap<string, readonly Tensor[]>
    try {
      inputs = await pass.backward(gradients, this.#c.signal)
    } catch (error) {
      this.#lost(holder, error)
      return await this.#again(share, gradients, states)
    }
    const looked = holder.isLocal ? items.filter(({ hasBefore }) => hasBefore) : items
    const bad = looked.filter(({ id }) => !isSane(inputs.get(id) ?? []))
    if (bad.length > 0 && await this.#isToBlame(share, bad, async (other) => await this.#areInputsSane(other, bad, gradients))) {
      this.#c.holders.faulty(holder, 'its gradients are not finite, or far too large')
      return await this.#again(share, gradients, states)
    }
    for (const { id } of items) states.delete(id)
    for (const { id } of bad) this.#doubt(id)
    for (const { id } of items) {
      const tensors = inputs.get(id)
      if (tensors !== undefined && !this.unsound.has(id)) states.set(id, tensors)
    }
    const collecting = this.#collect(share, gradients)
    collecting.catch(() => {}) // `backward` waits for it
    this.#collecting.push(collecting)
  }

  /** Computes a share's items again, forward and backward, on those who hold its blocks now. */
  async #again (share: Share, gradients: OutputGradients, states: Map<string, readonly Tensor[]>): Promise<void> {
    this.#free(share.pass)
    const items = share.items.filter(({ id }) => gradients.has(id))
    const { shares } = await this.#through(items)
    const inputs = await this.#back(shares, new Map([...gradients].map(([id, { tensors }]) => [id, tensors])))
    for (const { id } of items) {
      const tensors = inputs.get(id)
      if (tensors === undefined || this.unsound.has(id)) states.delete(id)
      else states.set(id, tensors)
    }
  }

  /** Takes a share's adapter gradients into the sum. */
  async #collect (share: Share, gradients: OutputGradients): Promise<void> {
    const { pass, holder } = share
    let collected: CollectedGradients
    try {
      collected = await pass.collect(this.#c.signal)
    } catch (error) {
      this.#lost(holder, error)
      return await this.#again(share, gradients, new Map())
    }
    this.#free(pass)
    const gradientsOfShare = this.#c.replicas === undefined
      ? collected.gradients
      : new Map([...collected.gradients].map(([name, gradient]) => [gradientName(name, holder.peer), gradient]))
    this.#addends.push({ place: placeOf(share), gradients: gradientsOfShare })
    if (collected.isFinite) return this.#c.holders.worked(holder)
    const items = share.items.filter(({ id }) => gradients.has(id))
    // Where no other holder does better, it is a client's gradients that overflow: whoever has the sum finds out whose.
    if (await this.#isBetterElsewhere(share, async (other) => await this.#areAdaptersFinite(other, items, gradients)) !== true) return
    this.#c.holders.faulty(holder, 'its adapter gradients are not finite')
    this.#c.device.free(...collected.gradients.values())
    this.#addends.splice(this.#addends.findIndex(({ gradients: own }) => own === gradientsOfShare), 1)
    await this.#again(share, gradients, new Map())
  }

  /**
   * Decides whether values that are not finite are the fault of the holder or of the clients whose items they are. It is the holder's
   * where another holder of these blocks does better, and, where there is no other, if it has nothing good for any of several clients.
   */
  async #isToBlame (share: Share, bad: readonly BatchItem[], isBetter: (other: Holder) => Promise<boolean>): Promise<boolean> {
    if (share.holder.isLocal) return false
    return await this.#isBetterElsewhere(share, isBetter) ?? (bad.length > 1 && bad.length === share.items.length)
  }

  /** Has another holder of a share's blocks compute the same. Undefined where there is none. */
  async #isBetterElsewhere (share: Share, isBetter: (other: Holder) => Promise<boolean>): Promise<boolean | undefined> {
    for (const other of this.#c.holders.available()) {
      if (other.peer === share.holder.peer || !containsSpan(other.span, share)) continue
      try {
        return await isBetter(other)
      } catch (error) {
        this.#lost(other, error)
      }
    }
    return undefined
  }

  async #areOutputsSane (other: Holder, items: readonly BatchItem[]): Promise<boolean> {
    const pass = await other.forward(items, { dropoutSeed: this.#dropoutSeed }, this.#c.signal)
    try {
      return items.every(({ id }) => isSane(pass.hidden.get(id) ?? []))
    } finally {
      pass.free()
    }
  }

  async #areInputsSane (other: Holder, items: readonly BatchItem[], gradients: OutputGradients): Promise<boolean> {
    const { signal } = this.#c
    const pass = await other.forward(items, { dropoutSeed: this.#dropoutSeed }, signal)
    try {
      const inputs = await pass.backward(new Map([...gradients].filter(([id]) => items.some((item) => item.id === id))), signal)
      return items.every(({ id }) => isSane(inputs.get(id) ?? []))
    } finally {
      pass.free()
    }
  }

  async #areAdaptersFinite (other: Holder, items: readonly BatchItem[], gradients: OutputGradients): Promise<boolean> {
    const { signal, device } = this.#c
    const pass = await other.forward(items, { dropoutSeed: this.#dropoutSeed }, signal)
    try {
      await pass.backward(gradients, signal)
      const collected = await pass.collect(signal)
      device.free(...collected.gradients.values())
      return collected.isFinite
    } finally {
      pass.free()
    }
  }

  /** Finds the next blocks from `first` on and who holds them. Waits where nobody does. */
  async #stage (first: number, end: number): Promise<ReplicatedStage<Holder>> {
    const { holders, signal } = this.#c
    for (;;) {
      signal.throwIfAborted()
      const changed = holders.changed(signal)
      changed.catch(() => {})
      const stage = this.#stageFrom(first, end)
      if (stage !== undefined) {
        this.#c.missing(this, [])
        return stage
      }
      this.#c.missing(this, uncovered({ first, end }, holders.available().map(({ span }) => span)))
      await changed
    }
  }

  #stageFrom (first: number, end: number): ReplicatedStage<Holder> | undefined {
    const { holders, replicas } = this.#c
    if (replicas === undefined) return stageFrom(first, end, holders.available())
    replicas.admit(holders.available())
    const span = replicas.spanFrom(first, end)
    return span === undefined ? undefined : { ...span, replicas: [] }
  }

  /** Gives items to the servers of their clients. Waits for those that are away. */
  async #assigned <I extends Piece> (
    replicas: Replicas,
    items: readonly I[],
    stage: Span
  ): Promise<Array<{ readonly holder: Holder, readonly items: readonly I[] }>> {
    const groups = Map.groupBy(items.toSorted((a, b) => a.id < b.id ? -1 : 1), ({ id }) => replicas.serverOf(id, stage.first))
    return await settled([...groups].map(async ([peer, own]) => ({ holder: await this.#replica(replicas, peer, stage), items: own })))
  }

  /** Finds a server by its name. Throws ReplicaGivenUpError where it has been away for too long and others have its blocks. */
  async #replica (replicas: Replicas, peer: string, stage: Span): Promise<Holder> {
    const { holders, signal, replicaGraceMs = REPLICA_GRACE_MS } = this.#c
    const untilMs = performance.now() + replicaGraceMs
    for (;;) {
      signal.throwIfAborted()
      const holder = holders.available().find((other) => other.peer === peer && containsSpan(other.span, stage))
      if (holder !== undefined) {
        this.#c.missing(this, [])
        return holder
      }
      const leftMs = untilMs - performance.now()
      const hasOthers = holders.available().some(({ span }) => containsSpan(span, stage))
      if (!hasOthers) this.#c.missing(this, [{ first: stage.first, end: stage.end }])
      else if (leftMs <= 0) {
        replicas.giveUp(peer)
        throw new ReplicaGivenUpError(peer, stage)
      }
      const late = AbortSignal.timeout(Math.max(Math.ceil(leftMs), MIN_LOOK_MS))
      await holders.changed(AbortSignal.any([signal, late])).catch(() => {})
    }
  }

  /** Leaves a holder out that failed. Throws what is not a holder's failure: the end of all work, or a defect. */
  #lost (holder: Holder, error: unknown): void {
    const { signal, holders } = this.#c
    signal.throwIfAborted()
    if (holder.isLocal || isDefect(error)) throw error
    holders.lost(holder, error)
  }

  #queue ({ peer }: Holder, work: number): void {
    this.#queued.set(peer, (this.#queued.get(peer) ?? 0) + work)
  }

  #doubt (id: string): void {
    this.unsound.add(id)
    this.#c.logger.warn({ peer: id }, 'a client\'s hidden states or gradients overflow in the middle')
  }

  #free (pass: HolderPass): void {
    this.#passes.delete(pass)
    pass.free()
  }
}

/** Where a share's gradients have their place in the sum: it follows from who computed what, not from who was done first. */
function placeOf ({ first, end, holder, items }: Share): string {
  const [from, to] = [first, end].map((block) => String(block).padStart(6, '0'))
  return `${from} ${to} ${holder.peer} ${items[0]?.id ?? ''}`
}

/** Waits for all, and only then rejects with the first failure, so that nothing goes on behind whoever cleans up. */
async function settled<T> (promises: ReadonlyArray<Promise<T>>): Promise<T[]> {
  const results = await Promise.allSettled(promises)
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}
