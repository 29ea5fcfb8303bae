import type { PromptContext } from '../../../model/families/index.ts'
import type { Protection } from '../../../model/privacy/boundary.ts'
import { joinTensorRows, tensorRows, type Tensor } from '../../../tensor.ts'
import { tokensOf, type CachedHiddenStates } from '../../middle/stage.ts'
import type { ReleaseLedger } from '../release-ledger.ts'
import { ReleasedText } from './released-text.ts'

export interface SequenceReleasesSettings {
  readonly protection: Protection
  /** Names the sequence in the ledger. */
  readonly text: string
}

/** What a sequence released: what leaves again for the same tokens is as it was, and what leaves for the first time is in the ledger. */
export class SequenceReleases {
  /** The tokens that were sent so far, and their hidden states as they were released. */
  readonly released = new ReleasedText()
  /** A text that was released before: what begins as it does is sent as it was then. */
  before: ReleasedText | undefined
  readonly #ledger: Pick<ReleaseLedger, 'record'>
  readonly #settings: SequenceReleasesSettings
  #fresh = 0

  constructor (ledger: Pick<ReleaseLedger, 'record'>, settings: SequenceReleasesSettings) {
    this.#ledger = ledger
    this.#settings = settings
  }

  /** Hidden states that were released so far for the first time. */
  get fresh (): number { return this.#fresh }

  /**
   * Returns what leaves now for the tokens from a position on, and notes it, in the ledger too. `tensors` are their hidden states,
   * protected: what was released before for the same tokens takes their place.
   */
  async take (
    position: number,
    ids: readonly number[],
    tensors: readonly Tensor[],
    context: PromptContext | undefined
  ): Promise<CachedHiddenStates> {
    const known = this.#knownBefore(position, ids)
    await this.#count(position, known, tensors)
    const states = { tensors: this.#asBefore(position, known, tensors), context }
    this.#fresh += ids.length - known
    this.released.put(position, ids, states)
    return states
  }

  /** Puts the states that leave for the first time, all but the first `known` of these, into the ledger. */
  async #count (position: number, known: number, tensors: readonly Tensor[]): Promise<void> {
    const count = tokensOf(tensors)
    const rows = count - known
    if (rows === 0) return
    const { protection: { clip, noise }, text } = this.#settings
    const place = { work: text, epoch: 0, index: 0, sequences: position + known === 0 ? 1 : 0 }
    await this.#ledger.record(
      { purpose: 'generate', kind: 'hidden', ...place, rows, recordRows: rows, clip, noise },
      known === 0 ? tensors : tensors.map((part) => tensorRows(part, known, count))
    )
  }

  /** Returns how many of the tokens from a position on were released before, after the same tokens. */
  #knownBefore (position: number, ids: readonly number[]): number {
    if (this.before === undefined || this.before.ids.length <= position) return 0
    return Math.max(0, this.before.commonLength([...this.released.ids.slice(0, position), ...ids]) - position)
  }

  /** Puts what was released before in the place of the first `known` states. */
  #asBefore (position: number, known: number, tensors: readonly Tensor[]): readonly Tensor[] {
    if (known === 0) return tensors
    const rows = this.before!.rows(position, position + known)
    const count = tokensOf(tensors)
    return known === count ? rows : joinedRows(rows, tensors.map((part) => tensorRows(part, known, count)))
  }
}

/** Joins rows [rows, ...] of two releases, part by part. */
export function joinedRows (first: readonly Tensor[], then: readonly Tensor[]): Tensor[] {
  return first.map((part, i) => joinTensorRows([part, then[i]!]))
}
