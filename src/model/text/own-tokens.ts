import type { Example } from './dataset.ts'

/** Sequences as a client itself computes them, every token, where words of them are withheld. */
export interface OwnTokens {
  readonly ids: number[][]
  readonly targets: number[][]
  /** How many targets count. */
  readonly tokens: number
  /** For each token of the sequences, one after another: its row among those that are sent, or the last row before it; -1 for none. */
  readonly sentRows: Int32Array
  /** For each token, 1 where it is sent itself. */
  readonly isSent: Uint8Array
}

/** A text without its withheld tokens, and where the others stand in it. */
export interface SentExample extends Pick<Example, 'ids' | 'lossMask'> {
  /** Positions of the tokens in the whole text; undefined where nothing is withheld. */
  readonly positions: Int32Array | undefined
}

/** Takes the withheld tokens out of a text. What is left depends on the other tokens alone. */
export function sentExample ({ ids, lossMask, withheld }: Pick<Example, 'ids' | 'lossMask' | 'withheld'>): SentExample {
  if (withheld?.includes(1) !== true) return { ids, lossMask, positions: undefined }
  const positions = Int32Array.from(ids.keys()).filter((i) => withheld[i] !== 1)
  const sentMask = Uint8Array.from(positions, (i) => lossMask[i]!)
  // Nothing comes before the first token that is sent.
  if (sentMask.length > 0) sentMask[0] = 0
  return { ids: Int32Array.from(positions, (i) => ids[i]!), lossMask: sentMask, positions }
}
