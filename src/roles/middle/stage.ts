import type { PromptContext } from '../../model/families/index.ts'
import type { Sequences } from '../../model/layers/hidden-states.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import type { Arithmetic } from './arithmetic.ts'

/** One client's released hidden states in a batched run, and the blocks `[first, end)` that compute them. */
export interface BatchItem extends Sequences, Span {
  /** Names the client in the batch. */
  readonly id: string
  /** Hidden states [tokens, hidden] in the encoding of the wire; for int8 followed by their scales [tokens]. */
  readonly tensors: readonly Tensor[]
}

/** What identifies a training pass, so that a stage can tell a repetition from a new pass. */
export interface PassOptions {
  readonly round: number
  /** The pass in the round, from 0. */
  readonly pass: number
  /** Seeds dropout in the blocks of the stage. */
  readonly dropoutSeed: string
}

/** The gradient of one item's outputs. */
export interface OutputGradient {
  /** Gradients [tokens, hidden] of the sum of the loss, in the encoding of the wire. */
  readonly tensors: readonly Tensor[]
  /** Tokens that the loss counts. */
  readonly tokens: number
}

/** A forward pass whose activations are saved for the backward pass. */
export interface ForwardPass {
  /** The hidden states of every item after its last block, in the encoding of the wire, by item id. */
  readonly hidden: ReadonlyMap<string, readonly Tensor[]>
  /**
   * Computes the gradients [tokens, hidden] of the items' inputs from the gradients of their outputs, both in the encoding of the wire,
   * by item id. An item without a gradient counts as if it had not been in the batch. It can be called once.
   */
  backward (gradients: ReadonlyMap<string, OutputGradient>, signal?: AbortSignal): Promise<ReadonlyMap<string, readonly Tensor[]>>
  /** Frees the saved activations. */
  free (): void
}

/** Consecutive hidden states of one growing sequence, from the length of its cache on, in the encoding of the wire. */
export interface CachedHiddenStates {
  /** Hidden states [tokens, hidden]; for int8 followed by their scales [tokens]. */
  readonly tensors: readonly Tensor[]
  /** What a model that reads prompts in both directions must know of them. */
  readonly context: PromptContext | undefined
}

/** What one server of several keeps of a sequence that they hand over to one another. */
export interface CachePart {
  /** Names the server. */
  readonly server: string
  readonly span: Span
  /** Bytes on the wire between this machine and the server so far. */
  readonly traffic: { readonly sentBytes: number, readonly receivedBytes: number }
}

/** The KV cache that a stage keeps for one sequence. */
export interface StageCache {
  /** Positions that the cache can hold. */
  readonly capacity: number
  /** Positions that the cache holds. */
  readonly length: number
  /** Bytes on the wire so far, where the cache is on a server. */
  readonly traffic?: { readonly sentBytes: number, readonly receivedBytes: number }
  /** Where several servers keep the cache: what each has of it, in order. */
  readonly parts?: readonly CachePart[]
  /** Milliseconds that each server needed for the last hidden states, as it says itself, in order; undefined where they did not all say. */
  readonly serverMs?: readonly number[] | undefined
  /** What computes, as the server says, where the cache is on one. */
  readonly arithmetic?: Arithmetic
  /** Rounds whose step was in the adapters that computed the last answer, as the server says; undefined where it said none. */
  readonly round?: number | undefined
  /** Computes hidden states through the span and appends them to the cache. Resolves with the outputs [tokens, hidden]. */
  forward (states: CachedHiddenStates, signal?: AbortSignal): Promise<readonly Tensor[]>
  /** Forgets every position from this one on. Throws RangeError for a position beyond `length`. */
  rewind (position: number): void
  /** Frees the cache. Called again, it does nothing. */
  close (): Promise<void>
}

/** A span of blocks that may be on this device or on a server: it takes released hidden states through the span. */
export interface Stage {
  /** The blocks that it computes. */
  readonly span: Span
  /** Computes a training pass and saves its activations. The caller frees the pass. */
  forward (items: readonly BatchItem[], options: PassOptions, signal?: AbortSignal): Promise<ForwardPass>
  /** Computes one item and saves nothing. Resolves with its hidden states in the encoding of the wire. */
  evaluate (item: BatchItem, signal?: AbortSignal): Promise<readonly Tensor[]>
  /** Opens a KV cache for a sequence of up to `capacity` tokens in blocks of the stage. The caller closes it. */
  openCache (span: Span, capacity: number, signal?: AbortSignal): Promise<StageCache>
}

/** Returns the number of tokens whose hidden states these are. */
export function tokensOf ([values]: readonly Tensor[]): number {
  return values?.shape[0] ?? 0
}

/** Throws RangeError for a position that a cache of this length does not hold and that is not its end. */
export function checkPosition (position: number, length: number): void {
  if (!Number.isSafeInteger(position) || position < 0 || position > length)
    throw new RangeError(`a cache of ${length} positions cannot be rewound to ${position}`)
}
