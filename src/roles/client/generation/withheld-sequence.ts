import { chunksOf } from '../../../model/generation/cache-size.ts'
import { CachedClientModel } from '../../../model/generation/cached-client-model.ts'
import { rowsFromWire } from '../../../model/generation/speculation/wire-rows.ts'
import { float32, type Tensor } from '../../../tensor.ts'
import type { StageCache } from '../../middle/stage.ts'
import type { ReleasedText } from './released-text.ts'
import { SequenceReleases } from './sequence-releases.ts'
import { replayed, type GrowingText, type SequenceComponents, type SequenceSettings } from './sequence.ts'
import type { WithheldText } from './withheld-text.ts'

/** Tokens at the end of a prompt that wait for the end of their word: few words have more. */
const WAITING_TOKENS = 16

/**
 * Returns the room that a text asks servers for, where words of it are withheld: by the tokens of its prompt that are sent, and by the
 * tokens that are wanted at most. How many are withheld is not to be seen in it.
 */
export function sentCapacity (sentTokens: number, maxTokens: number, maxSequenceTokens: number): number {
  return Math.min(maxSequenceTokens, sentTokens + WAITING_TOKENS + maxTokens)
}

/** What withholds words of a sequence. */
export interface SequenceWithholding {
  /** Judges the tokens: it has none yet. */
  readonly text: WithheldText
  /** How much of what the middle adds goes to withheld tokens, [hidden]. */
  readonly gate: Tensor
}

/**
 * One sequence that grows, of which some words are withheld. The bottom runs twice: over all tokens, for this side's own stream, and over
 * those that are sent, at consecutive positions, as if there were no others. A word that may turn out to be one to be withheld waits until
 * that is known, and is then sent, or not.
 */
export class WithheldSequence implements GrowingText {
  readonly #c: SequenceComponents
  readonly #protection: SequenceSettings['protection']
  readonly #text: WithheldText
  readonly #gate: Float32Array
  /** The bottom and the top of the client's own stream. */
  readonly #ends: CachedClientModel
  /** The bottom over the tokens that are sent. */
  readonly #sentBottom: CachedClientModel
  readonly #releases: SequenceReleases
  /** What the middle added to each token that was sent, [hidden]. */
  readonly #added: Float32Array[] = []
  #middle: StageCache
  /** Tokens whose fate was acted on. */
  #settled = 0

  private constructor (
    components: SequenceComponents,
    { protection, text: name }: SequenceSettings,
    { text, gate }: SequenceWithholding,
    ends: CachedClientModel,
    sentBottom: CachedClientModel,
    middle: StageCache
  ) {
    this.#c = components
    this.#protection = protection
    this.#text = text
    this.#gate = gate.data as Float32Array
    this.#ends = ends
    this.#sentBottom = sentBottom
    this.#middle = middle
    this.#releases = new SequenceReleases(components.ledger, { protection, text: name })
  }

  /** Takes room for the sequence here and on the route. The caller closes it. */
  static async open (
    components: SequenceComponents,
    settings: SequenceSettings,
    withholding: SequenceWithholding,
    signal: AbortSignal
  ): Promise<WithheldSequence> {
    const { route, weights } = components
    const { partition, capacity } = settings
    const middle = await route.openCache(route.span, capacity, signal)
    let ends: CachedClientModel | undefined
    try {
      const { maxPositions } = weights.model
      ends = await CachedClientModel.create(weights, partition, maxPositions)
      const sentBottom = await CachedClientModel.create(weights, { ...partition, outputBlocks: 0 }, maxPositions)
      return new WithheldSequence(components, settings, withholding, ends, sentBottom, middle)
    } catch (error) {
      ends?.free()
      await middle.close()
      throw error
    }
  }

  get length (): number { return this.#ends.length }

  get capacity (): number { return this.#middle.capacity }

  get freshStates (): number { return this.#releases.fresh }

  get released (): ReleasedText { return this.#releases.released }

  /** Does nothing: nothing is drafted for a text with withheld words. */
  useMap (): void {}

  /** Begins the text. `before` is what was released of one whose sent tokens begin as this one's. */
  resume (prompt: readonly number[], before?: ReleasedText): readonly number[] {
    this.#releases.before = before
    return prompt
  }

  async grow (capacity: number, signal: AbortSignal): Promise<void> {
    const before = this.#middle
    this.#middle = await replayed(this.#c.route, this.released, capacity, signal)
    await before.close()
  }

  /** Computes the logits [vocabulary] after these next tokens. */
  async next (ids: readonly number[], _options: { readonly guess: boolean }, signal: AbortSignal): Promise<Float32Array> {
    await this.#text.push(ids)
    const { decided, fates, ids: all } = this.#text
    // Tokens that waited go through the top again: now what the middle adds to them is there, or is not to come.
    const from = Math.min(this.#settled, this.#ends.length)
    await this.#send(all.slice(this.#settled, decided).filter((_, i) => fates[this.#settled + i] === 'sent'), signal)
    this.#settled = decided
    this.#ends.rewind(from)
    let logits: Float32Array | undefined
    let position = from
    for (const chunk of chunksOf(this.#c.weights.model, all.slice(from))) {
      logits = await this.#ends.logits(await this.#own(chunk, position), chunk.length)
      position += chunk.length
    }
    return logits!
  }

  /** Takes one token after another through the model: nothing is sent before it is known to be next. */
  async verify (id: number, drafted: readonly number[], signal: AbortSignal): Promise<Float32Array[]> {
    if (drafted.length > 0) throw new RangeError('nothing is drafted where words are withheld')
    return [await this.next([id], { guess: false }, signal)]
  }

  async draft (): Promise<readonly number[]> {
    return await Promise.resolve([])
  }

  /** Throws RangeError: nothing is drafted that would be forgotten. */
  rewind (position: number): void {
    if (position !== this.length) throw new RangeError('a text with withheld words forgets nothing')
  }

  async close (): Promise<void> {
    this.#ends.free()
    this.#sentBottom.free()
    await this.#middle.close()
  }

  /** Takes the next tokens that are sent through the middle, and notes what it adds to each. */
  async #send (ids: readonly number[], signal: AbortSignal): Promise<void> {
    const { boundary, weights: { model } } = this.#c
    for (const chunk of ids.length === 0 ? [] : chunksOf(model, ids)) {
      const position = this.released.ids.length
      if (position + chunk.length > this.capacity) await this.grow(position + chunk.length, signal)
      const { tensors } = await boundary.protect(await this.#sentBottom.embed(chunk), this.#protection, { count: chunk.length })
      const states = await this.#releases.take(position, chunk, tensors, undefined)
      const back = rowsFromWire(await this.#middle.forward(states, signal))
      const released = rowsFromWire(states.tensors)
      const width = model.hiddenSize
      for (let row = 0; row < chunk.length; row++)
        this.#added.push(Float32Array.from({ length: width }, (_, i) => back[row * width + i]! - released[row * width + i]!))
    }
  }

  /** Returns what the top begins with for tokens from a position on, [ids, hidden]. */
  async #own (ids: readonly number[], position: number): Promise<Tensor> {
    const { weights: { device, model: { hiddenSize } } } = this.#c
    const { calls, output } = await this.#ends.embed(ids)
    const hidden = (await device.runSequence(calls))[output] as Tensor
    const whole = Float32Array.from(hidden.data as Float32Array)
    let sent = this.#text.fates.slice(0, Math.min(position, this.#settled)).filter((fate) => fate === 'sent').length
    for (let row = 0; row < ids.length; row++) {
      const isSent = position + row < this.#settled && this.#text.fates[position + row] === 'sent'
      if (isSent) sent++
      const added = this.#added[sent - 1]
      if (added === undefined) continue
      for (let i = 0; i < hiddenSize; i++) whole[row * hiddenSize + i]! += (isSent ? 1 : this.#gate[i]!) * added[i]!
    }
    return float32([ids.length, hiddenSize], whole)
  }
}
