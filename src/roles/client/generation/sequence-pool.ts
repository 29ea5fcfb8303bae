import { withSignal } from '../../../protocols/wire/wait.ts'
import type { ReleasedText } from './released-text.ts'

/** A sequence that may be kept for the next text. */
export interface KeptSequence {
  readonly released: ReleasedText
  close (): Promise<void>
}

/** Sequences that are kept open while no text uses them, at most. Each holds a cache on every server of its route. */
export const MAX_IDLE_SEQUENCES = 2

/** Bytes of released states that are kept without their sequences, at most: 14 texts of 4,096 tokens at hidden size 576 in fp16. */
export const MAX_RELEASED_BYTES = 64 * 2 ** 20

/** Sequences that were not used for this time are closed: a chat that pauses longer pays for its history once more. */
const KEPT_MS = 10 * 60_000

export interface PoolOptions {
  /** Sequences that may be open at a time, those included that are kept. */
  readonly maxOpen: number
  /** Called with the error where a sequence that is kept does not close. */
  readonly onError?: (error: unknown) => void
}

/** What a text wants. */
export interface Wanted<Sequence extends KeptSequence> {
  readonly prompt: readonly number[]
  /** Names what the released states depend on besides the tokens: those of another key are forgotten. */
  readonly key: string
  /** Whether a kept sequence may go on as the text, of which `common` tokens are the prompt's first, and which forgets others. */
  readonly allows: (sequence: Sequence, common: number) => boolean
}

/** What there is of a text like the one that is wanted. */
export interface Found<Sequence extends KeptSequence> {
  /** The sequence to go on with. */
  readonly sequence: Sequence | undefined
  /** The released states of the text that begins as the prompt does for the longest, where that is another than the sequence's. */
  readonly released: ReleasedText | undefined
}

interface Idle<Sequence> {
  readonly sequence: Sequence
  readonly timer: NodeJS.Timeout
}

/**
 * Keeps the sequences of a client's texts for those that begin alike, such as the next turn of a chat, and lets texts wait while as many
 * sequences are open as servers allow. Where a sequence has to go, the states that it released stay for a while, so that they are released
 * once.
 */
export class SequencePool<Sequence extends KeptSequence> {
  readonly #options: PoolOptions
  /** The least recently used first. */
  readonly #idle: Array<Idle<Sequence>> = []
  readonly #released: ReleasedText[] = []
  readonly #waiting: Array<() => void> = []
  #used = 0
  #key = ''

  constructor (options: PoolOptions) {
    this.#options = options
  }

  /** Sequences that are kept and that no text uses. */
  get idle (): number { return this.#idle.length }

  /**
   * Waits for a place, and finds what there is of a text like the one that is wanted. The caller opens a sequence where none is found, and
   * gives the place back with `giveBack`. `onWaiting` is called where others' texts have all places.
   */
  async take ({ prompt, key, allows }: Wanted<Sequence>, onWaiting: () => void, signal: AbortSignal): Promise<Found<Sequence>> {
    await this.#place(onWaiting, signal)
    try {
      if (key !== this.#key) await this.clear()
      this.#key = key
      const released = longest([...this.#released, ...this.#idle.map(({ sequence }) => sequence.released)], prompt)
      const allowed = this.#idle.map(({ sequence }) => sequence).filter((sequence) => {
        const common = sequence.released.commonLength(prompt)
        return common > 0 && allows(sequence, common)
      })
      const own = longest(allowed.map((sequence) => sequence.released), prompt)
      const index = this.#idle.findIndex(({ sequence }) => sequence.released === own)
      if (own !== undefined && index >= 0) {
        const [{ sequence, timer }] = this.#idle.splice(index, 1) as [Idle<Sequence>]
        clearTimeout(timer)
        // What the sequence forgets may be wanted again, and is then sent as it was.
        if (own.commonLength(prompt) < own.ids.length) this.#remember(own.copy())
        return { sequence, released: released === own ? undefined : released }
      }
      while (this.#idle.length > 0 && this.#idle.length + this.#used > this.#options.maxOpen) await this.#evict()
      return { sequence: undefined, released }
    } catch (error) {
      this.#free()
      throw error
    }
  }

  /** Keeps a sequence for a text that begins as it does, or closes it; its place is another text's. Without a sequence, frees the place. */
  async giveBack (sequence: Sequence | undefined, { keeps, key }: { readonly keeps: boolean, readonly key: string }): Promise<void> {
    const isCurrent = key === this.#key
    try {
      if (sequence === undefined) return
      if (!keeps || !isCurrent) {
        if (isCurrent) this.#remember(sequence.released)
        await sequence.close()
        return
      }
      this.#idle.push({ sequence, timer: setTimeout(() => { void this.#expire(sequence) }, KEPT_MS).unref() })
      while (this.#idle.length > MAX_IDLE_SEQUENCES) await this.#evict()
    } finally {
      this.#free()
    }
  }

  /** Closes what is kept, and forgets what was released. */
  async clear (): Promise<void> {
    while (this.#idle.length > 0) await this.#evict()
    this.#released.length = 0
  }

  #remember (released: ReleasedText): void {
    if (released.ids.length > 0) this.#released.push(released)
    while (this.#released.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) > MAX_RELEASED_BYTES) this.#released.shift()
  }

  async #expire (sequence: Sequence): Promise<void> {
    const index = this.#idle.findIndex((idle) => idle.sequence === sequence)
    if (index < 0) return
    this.#idle.splice(index, 1)
    await this.#close(sequence)
  }

  /** Closes the least recently used sequence that is kept. */
  async #evict (): Promise<void> {
    const [{ sequence, timer }] = this.#idle.splice(0, 1) as [Idle<Sequence>]
    clearTimeout(timer)
    await this.#close(sequence)
  }

  async #close (sequence: Sequence): Promise<void> {
    this.#remember(sequence.released)
    try {
      await sequence.close()
    } catch (error) {
      this.#options.onError?.(error)
    }
  }

  async #place (onWaiting: () => void, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.#used < this.#options.maxOpen) {
      this.#used++
      return
    }
    onWaiting()
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#waiting.push(resolve)
    try {
      await withSignal(promise, signal)
    } catch (error) {
      const index = this.#waiting.indexOf(resolve)
      if (index >= 0) this.#waiting.splice(index, 1)
      else this.#free() // the place came in the meantime
      throw error
    }
  }

  /** Gives a place to the text that waits for the longest, or frees it. */
  #free (): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#used--
    else next()
  }
}

/** Returns the text that begins as the prompt does for the longest, the last of equal ones; undefined where none does. */
function longest (texts: readonly ReleasedText[], prompt: readonly number[]): ReleasedText | undefined {
  let [best, most]: [ReleasedText | undefined, number] = [undefined, 0]
  for (const text of texts) {
    const common = text.commonLength(prompt)
    if (common > 0 && common >= most) [best, most] = [text, common]
  }
  return best
}
