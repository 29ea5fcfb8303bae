import type { PromptContext } from '../../../model/families/index.ts'
import type { CachedSpan, SequenceChunk } from '../../../model/generation/cached-span.ts'
import { concatRows, sliceRows } from '../../../model/layers/hidden-states.ts'
import type { Boundary } from '../../../model/privacy/boundary.ts'
import { continued, type Device, type DeviceTensor } from '../../../model/runtime/device.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import { joinTensorRows, tensorRows, type Tensor } from '../../../tensor.ts'
import { segments } from '../../middle/segments.ts'
import type { CachedSequence } from './cache-manager.ts'

/** Consecutive tokens of one sequence in a run. */
export interface BatchChunk {
  readonly sequence: CachedSequence
  /** The position of the first token. */
  readonly position: number
  readonly count: number
  /** Hidden states [count, hidden] in the encoding of the wire. */
  readonly tensors: readonly Tensor[]
  readonly context: PromptContext | undefined
  /** The length of the sequence after the request that the chunk is a part of. */
  readonly requestEnd: number
}

/** What became of a chunk: its hidden states after the span, in the encoding of the wire, or why there are none. */
export type ChunkResult = { readonly tensors: readonly Tensor[] } | { readonly error: unknown }

export interface BatchRunnerComponents {
  readonly device: Device
  readonly blocks: CachedSpan
  readonly boundary: Boundary
  /** Tokens of one sequence that a run of the model may have. */
  readonly maxChunkTokens: number
}

/** Takes the chunks of a plan through their blocks, all in one run where their spans allow it. */
export class BatchRunner {
  readonly #c: BatchRunnerComponents

  constructor (components: BatchRunnerComponents) {
    this.#c = components
  }

  /**
   * Computes chunks of different sequences, and sets the lengths of their caches to the chunks' ends. Where chunks fail together, each is
   * tried once more, alone, so that one sequence cannot spoil another's. Resolves with the results in the order of the chunks.
   */
  async run (chunks: readonly BatchChunk[]): Promise<ChunkResult[]> {
    if (chunks.length > 1) {
      try {
        const { span } = chunks[0]!.sequence
        const alike = chunks.every(({ sequence: { span: { first, end } } }) => first === span.first && end === span.end)
        return (await (alike ? this.#runJoined(chunks) : this.#runSegments(chunks))).map((tensors) => ({ tensors }))
      } catch {
        // Each chunk says below, alone, what is wrong with it.
      }
    }
    const results: ChunkResult[] = []
    for (const chunk of chunks)
      results.push(await this.#runJoined([chunk]).then(([tensors]) => ({ tensors: tensors! }), (error: unknown) => ({ error })))
    return results
  }

  /**
   * Computes chunks that pass the same blocks, in one message to the device: where each has a single token, messages would take as long as
   * the arithmetic.
   */
  async #runJoined (chunks: readonly BatchChunk[]): Promise<Tensor[][]> {
    const { boundary, blocks } = this.#c
    const { sequence: { span }, tensors: parts } = chunks[0]!
    for (const chunk of chunks) await this.#prepare(chunk)
    const joined = chunks.length === 1 ? parts : parts.map((_, part) => joinTensorRows(chunks.map(({ tensors }) => tensors[part]!)))
    const { calls, input } = continued(await boundary.decoding(joined))
    const through = await blocks.forwardCalls(input, chunks.map(sequenceChunk), span)
    const rows = chunks.reduce((sum, { count }) => sum + count, 0)
    const encoded = await boundary.encode({ calls: [...calls, ...through], output: 'output' }, rows)
    for (const { sequence: { cache }, position, count } of chunks) cache.length = position + count
    if (chunks.length === 1) return [encoded]
    let start = 0
    return chunks.map(({ count }) => {
      const [first, end] = [start, start += count]
      return encoded.map((part) => joinTensorRows([tensorRows(part, first, end)])) // a copy: no client's rows share memory with another's
    })
  }

  /** Computes chunks of several spans: blocks that several of them pass run once for these. */
  async #runSegments (chunks: readonly BatchChunk[]): Promise<Tensor[][]> {
    const { boundary, device } = this.#c
    using scope = new Scope(device)
    const byId = new Map(chunks.map((chunk) => [chunk.sequence.id, chunk]))
    const hidden = new Map<BatchChunk, DeviceTensor>()
    for (const chunk of chunks) {
      await this.#prepare(chunk)
      hidden.set(chunk, scope.own(await boundary.decode(chunk.tensors)))
    }
    for (const { first, end, items } of segments(chunks.map(({ sequence: { id, span }, count }) => ({ id, rows: count, ...span })))) {
      await this.#forward(items.map((id) => byId.get(id)!), { first, end }, hidden, scope)
    }
    const results: Tensor[][] = []
    for (const chunk of chunks) results.push(await boundary.encode(hidden.get(chunk)!))
    for (const { sequence: { cache }, position, count } of chunks) cache.length = position + count
    return results
  }

  /**
   * Sets a cache to the position of its chunk, with room for the rest of the request, so that the room is made once. A cache that keeps a
   * window then forgets nothing until the next request, and a request of one run's size can be repeated however it was cut.
   */
  async #prepare ({ sequence: { cache }, position, requestEnd }: BatchChunk): Promise<void> {
    cache.length = position
    await cache.reserve(Math.min(requestEnd, position + this.#c.maxChunkTokens))
  }

  /** Replaces the hidden states of these chunks by those after blocks that all of them pass. */
  async #forward (
    chunks: readonly BatchChunk[],
    span: CachedSequence['span'],
    hidden: Map<BatchChunk, DeviceTensor>,
    scope: Scope
  ): Promise<void> {
    const { blocks, device } = this.#c
    const parts = chunks.map((chunk) => hidden.get(chunk)!)
    const joined = parts.length === 1 ? parts[0]! : scope.own(await concatRows(device, parts))
    const result = scope.own(await blocks.forward(joined, chunks.map(sequenceChunk), span))
    scope.free(...new Set([joined, ...parts]))
    let start = 0
    for (const chunk of chunks) {
      hidden.set(chunk, chunks.length === 1 ? result : scope.own(await sliceRows(device, result, start, start + chunk.count)))
      start += chunk.count
    }
    if (chunks.length > 1) scope.free(result)
  }
}

function sequenceChunk ({ sequence: { cache }, count, context, requestEnd }: BatchChunk): SequenceChunk {
  return { cache, count, context, passEnd: requestEnd }
}
