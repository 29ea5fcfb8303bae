import { bytesOf, joinTensorRows, tensorRows, type Tensor } from '../../../tensor.ts'
import { firstTokens } from '../../middle/history.ts'
import { tokensOf, type CachedHiddenStates } from '../../middle/stage.ts'

/** The tokens of a text and their hidden states as they were released, from the first one on. */
export class ReleasedText {
  readonly #ids: number[] = []
  #states: CachedHiddenStates[] = []

  get ids (): readonly number[] { return this.#ids }

  /** The states in order, as they were released together. */
  get states (): readonly CachedHiddenStates[] { return this.#states }

  /** Bytes of the states. */
  get sizeBytes (): number {
    return this.#states.flatMap(({ tensors }) => tensors).reduce((sum, part) => sum + bytesOf(part).byteLength, 0)
  }

  /** Returns a text of its own with the same tokens and states. */
  copy (): ReleasedText {
    const copy = new ReleasedText()
    copy.#ids.push(...this.#ids)
    copy.#states = [...this.#states]
    return copy
  }

  /** Notes the states of the tokens from a position on, [ids, hidden] in the encoding of the wire. Those that were there are forgotten. */
  put (position: number, ids: readonly number[], states: CachedHiddenStates): void {
    this.truncate(position)
    this.#ids.push(...ids)
    this.#states.push(states)
  }

  /** Forgets every position from this one on. */
  truncate (position: number): void {
    if (position >= this.#ids.length) return
    this.#ids.length = position
    this.#states = firstTokens(this.#states, position)
  }

  /** Returns the released states of the positions [from, end), which are there. */
  rows (from: number, end: number): Tensor[] {
    const parts: Array<readonly Tensor[]> = []
    let at = 0
    for (const { tensors } of this.#states) {
      const count = tokensOf(tensors)
      const [first, last] = [Math.max(from - at, 0), Math.min(end - at, count)]
      if (first < last) parts.push(tensors.map((part) => tensorRows(part, first, last)))
      at += count
    }
    return parts[0]!.map((_, part) => joinTensorRows(parts.map((tensors) => tensors[part]!)))
  }

  /** Returns how many tokens a prompt begins with that this text begins with too. */
  commonLength (prompt: readonly number[]): number {
    const most = Math.min(prompt.length, this.#ids.length)
    for (let i = 0; i < most; i++) if (this.#ids[i] !== prompt[i]) return i
    return most
  }
}
