import { accumulate, GradientSum } from '../../../model/layers/gradient-sum.ts'
import { sequencesOf } from '../../../model/layers/hidden-states.ts'
import type { Boundary } from '../../../model/privacy/boundary.ts'
import type { AnyTensor, Deferred, Device, DeviceTensor } from '../../../model/runtime/device.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import type { Batch, Batches, Cursor } from '../../../model/text/batches.ts'
import type { BottomActivations, ClientModel } from '../../../model/training/client-model.ts'
import type { Tensor } from '../../../tensor.ts'
import type { BatchItem, OutputGradient, Stage } from '../../middle/stage.ts'
import { clientDropoutSeed, dropoutSeed } from '../../training/participant.ts'
import { OwnPass } from './own-pass.ts'
import type { BatchNote, Releases } from './releases.ts'
import { GATE } from './withheld-gate.ts'

/** What passes have come to: sums over their tokens, and how much of what they released was clipped. */
interface Figures {
  readonly lossSum: number
  /** Tokens that the loss counts. */
  readonly lossTokens: number
  /** Tokens that the loss of what was sent counts: the same where nothing is withheld. The servers hear of these alone. */
  readonly tokens: number
  /** Tokens that went through the client's blocks. */
  readonly inputTokens: number
  readonly clippedFraction: number
}

export interface ClientRoundComponents {
  readonly device: Device
  readonly model: ClientModel
  readonly boundary: Boundary
  readonly releases: Releases
  readonly batches: Batches
  /** How much of what the middle adds goes to withheld tokens, where words are withheld. */
  readonly gate?: { readonly value: AnyTensor } | undefined
}

export interface ClientRoundSettings {
  readonly round: number
  /** This client, as the servers know it. */
  readonly peer: string
  /** The place in the data of the first pass. */
  readonly cursor: Cursor
}

/** Rows that left. */
interface Left {
  /** The rows [rows, hidden] as they were; undefined where neither the clip nor the residual stream needs them. */
  rows: DeviceTensor | undefined
  /** The rows as they left, in the encoding of the wire. */
  tensors: readonly Tensor[]
}

/** A pass on its way: what `finish` needs of `forward` and `learn`. */
interface Pass extends Figures {
  readonly batch: Batch
  readonly note: BatchNote
  readonly hidden: Left
  /** The gradient for what came back from the middle. */
  readonly gradient: Left
  activations: BottomActivations | undefined
  gradients: Map<string, DeviceTensor>
  /** The pass of the client's own stream, where something of the batch is withheld. */
  own: OwnPass | undefined
  lossSum: number
  clippedFraction: number
}

/**
 * A client's part in a round: one batch after another through its own blocks, with the middle between them. A pass is freed before the next
 * one comes. The sum of the gradients of the client's own blocks stays, and figures. Disposing of the round frees everything.
 */
export class ClientRound implements Disposable {
  readonly round: number
  readonly startedAtMs = performance.now()
  /** What it waits for after its passes. A client that was cut off may be told the same twice. */
  awaits: 'passes' | 'coefficient' | 'step' = 'passes'
  /** The norm of the gradients of the client's own blocks, a token's mean, once all passes are done. */
  gradientNorm: number | undefined
  readonly #c: ClientRoundComponents
  readonly #peer: string
  readonly #sum: GradientSum
  readonly #gateSum: GradientSum
  readonly #done: Figures[] = []
  /** The place in the data of the next pass. */
  #cursor: Cursor
  #current: Pass | undefined

  constructor (components: ClientRoundComponents, { round, peer, cursor }: ClientRoundSettings) {
    this.#c = components
    this.round = round
    this.#peer = peer
    this.#cursor = cursor
    this.#sum = new GradientSum(components.device)
    this.#gateSum = new GradientSum(components.device)
    components.releases.enter(round)
  }

  /** The number of passes that are done, which is the number of the next one. */
  get pass (): number { return this.#done.length }

  /** Gradients of the client's own blocks, by name: sums over the passes that are done. */
  get gradients (): ReadonlyMap<string, DeviceTensor> { return this.#sum.gradients }

  /** The gradient of the gate of withheld tokens by its name, summed over the passes that are done; empty where nothing was withheld. */
  get gateGradients (): ReadonlyMap<string, DeviceTensor> { return this.#gateSum.gradients }

  /** Sums over all passes, the one in progress included. */
  get figures (): Figures {
    const all = this.#current === undefined ? this.#done : [...this.#done, this.#current]
    const total = (of: (figures: Figures) => number): number => all.reduce((sum, figures) => sum + of(figures), 0)
    return {
      lossSum: total(({ lossSum }) => lossSum),
      lossTokens: total(({ lossTokens }) => lossTokens),
      tokens: total(({ tokens }) => tokens),
      inputTokens: total(({ inputTokens }) => inputTokens),
      clippedFraction: total(({ clippedFraction }) => clippedFraction) / all.length
    }
  }

  /** Takes the next batch through a pass, from its tokens to the gradients of the client's own blocks. */
  async run (route: Stage, signal: AbortSignal): Promise<void> {
    const { round, pass } = this
    const item = { ...await this.forward(), ...route.span }
    const seed = dropoutSeed(round, pass)
    const forward = await route.forward([item], { round, pass, dropoutSeed: seed }, signal)
    try {
      const gradient = await this.learn(forward.hidden.get(item.id) ?? [])
      const inputs = await forward.backward(new Map([[item.id, gradient]]), signal)
      await this.finish(inputs.get(item.id) ?? [])
    } finally {
      forward.free()
    }
  }

  /** Begins the next pass: the embedding and the first blocks. Resolves with its hidden states as they may leave. */
  async forward (): Promise<Omit<BatchItem, 'first' | 'end'>> {
    const { device, model: { bottom }, releases, batches } = this.#c
    const { batch, next } = batches.at(this.#cursor)
    using scope = new Scope(device)
    const { hidden, residuals } = await bottom.forward(batch.ids, { keepResiduals: true, seed: this.#seed() })
    const rows = batch.lengths.reduce((sum, length) => sum + length, 0)
    const note = { ...this.#cursor, rows, sequences: batch.ids.length, recordRows: batches.changedByOne(batch) }
    const isKept = releases.clips('hidden') || releases.keepsStream
    if (!isKept) scope.own(hidden)
    if (residuals === undefined) throw new Error('a training pass kept no residuals')
    this.#current = {
      batch,
      note,
      hidden: { rows: isKept ? hidden : undefined, tensors: [] },
      gradient: { rows: undefined, tensors: [] },
      activations: residuals,
      gradients: new Map(),
      own: undefined,
      lossSum: 0,
      lossTokens: batch.own?.tokens ?? batch.tokens,
      tokens: batch.tokens,
      inputTokens: batch.own?.sentRows.length ?? rows,
      clippedFraction: 0
    }
    const { tensors, clippedFraction } = await releases.protect('hidden', this.pass, hidden, note)
    this.#current.hidden.tensors = tensors
    this.#current.clippedFraction = clippedFraction
    this.#cursor = next
    return { id: this.#peer, tensors, ...sequencesOf(bottom.span.model, batch.ids) }
  }

  /**
   * Takes hidden states that came back from the middle to the loss, which stays here. Resolves with their gradient as it may leave. Where
   * words are withheld, that is the gradient of the loss of the other words as if there were none besides.
   */
  async learn (tensors: readonly Tensor[]): Promise<OutputGradient> {
    const { device, model: { top }, boundary, releases } = this.#c
    const pass = this.#inProgress()
    const { own } = pass.batch
    using scope = new Scope(device)
    const hidden = scope.own(await boundary.computed(await this.#onStream(pass.hidden, await boundary.decoding(tensors))))
    const { lossSum, gradient, gradients } = await top.train(
      { hidden, ...sequencesOf(top.span.model, pass.batch.ids) },
      pass.batch.targets,
      { seed: this.#seed() }
    )
    if (releases.keepsStream && own === undefined) pass.gradient.rows = gradient
    else scope.own(gradient)
    if (own === undefined) {
      pass.gradients = gradients
      pass.lossSum = lossSum
    } else {
      device.free(...gradients.values())
      pass.own = await OwnPass.learn({ ...this.#c, gate: this.#gate }, own, { released: pass.hidden.tensors, back: tensors }, {
        scale: pass.tokens / Math.max(1, own.tokens), seed: `${this.#seed()}/own`
      })
      pass.lossSum = pass.own.loss.lossSum
    }
    const released = await releases.protect('gradient', this.pass, gradient, pass.note)
    pass.gradient.tensors = released.tensors
    pass.clippedFraction = (pass.clippedFraction + released.clippedFraction) / 2
    return { tensors: released.tensors, tokens: pass.tokens }
  }

  /** Ends the pass with the gradient that came back from the middle: the first blocks and the embedding learn from it. */
  async finish (tensors: readonly Tensor[]): Promise<void> {
    const { device, model: { bottom }, boundary, releases } = this.#c
    const pass = this.#inProgress()
    const { hidden, gradient: kept, activations, own, lossSum, lossTokens, tokens, inputTokens, clippedFraction } = pass
    if (activations === undefined) throw new Error('the pass is finished')
    using scope = new Scope(device)
    // The own stream's gradient has its part from its own pass: of what came down, only what passed the middle's blocks is left.
    const back = own === undefined
      ? await this.#onStream(kept, await boundary.decoding(tensors))
      : await boundary.adding(kept.tensors, await boundary.decoding(tensors))
    const gradient = scope.own(
      hidden.rows !== undefined && releases.clips('hidden')
        ? await releases.backward('hidden', hidden.rows, back, kept.rows)
        : await boundary.computed(back)
    )
    for (const left of [hidden, kept]) {
      if (left.rows !== undefined) scope.own(left.rows)
      left.rows = undefined
    }
    pass.activations = undefined
    await accumulate(device, pass.gradients, await bottom.backward(activations, gradient))
    const { gradients } = pass
    pass.gradients = new Map()
    await this.#sum.add(gradients)
    if (own !== undefined) {
      const { gradients: ownGradients, gate } = await own.finish()
      await this.#gateSum.add(new Map([[GATE, gate]]))
      await this.#sum.add(ownGradients)
    }
    this.#done.push({ lossSum, lossTokens, tokens, inputTokens, clippedFraction })
    this.#current = undefined
  }

  [Symbol.dispose] (): void {
    const pass = this.#current
    this.#current = undefined
    pass?.activations?.free()
    pass?.own?.[Symbol.dispose]()
    for (const rows of [pass?.hidden.rows, pass?.gradient.rows]) if (rows !== undefined) this.#c.device.free(rows)
    this.#c.device.free(...pass?.gradients.values() ?? [])
    this.#sum[Symbol.dispose]()
    this.#gateSum[Symbol.dispose]()
  }

  /** Puts what came back [rows, hidden] onto the rows as they were, where the residual stream stays here. */
  async #onStream ({ rows, tensors }: Left, back: AnyTensor | Deferred): Promise<AnyTensor | Deferred> {
    return rows !== undefined && this.#c.releases.keepsStream ? await this.#c.boundary.keepStream(rows, tensors, back) : back
  }

  get #gate (): AnyTensor {
    const { gate } = this.#c
    if (gate === undefined) throw new Error('words are withheld, and there is no gate for them')
    return gate.value
  }

  #seed (): string {
    return clientDropoutSeed(dropoutSeed(this.round, this.pass), this.#peer)
  }

  #inProgress (): Pass {
    if (this.#current === undefined) throw new Error('no pass is in progress')
    return this.#current
  }
}
