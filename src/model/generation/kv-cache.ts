import type { Span } from '../../span.ts'
import { bytesPerElement, elementCount, int32 } from '../../tensor.ts'
import type { Model } from '../families/family.ts'
import { Graph } from '../graph/graph.ts'
import { concat, gather } from '../graph/operators/index.ts'
import { program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import { firstKept, maxChunkTokens, mostPositions } from './cache-size.ts'
import { cachedHeadSize } from './cached-attention.ts'

/**
 * The number of positions that a new cache has memory for. onnxruntime's cached attention clears the positions beyond a sequence's length
 * in every step, which takes time in proportion to the memory; so a cache grows with its sequence, by doubling, and does not begin at its
 * capacity.
 */
const FIRST_POSITIONS = 256

/** The keys and values of one block for the positions from `first` on: float32 [1, kvHeads, positions, cachedHeadSize] each. */
export interface BlockCache {
  readonly key: DeviceTensor
  readonly value: DeviceTensor
  readonly first: number
}

/** The KV cache of one sequence in a span of blocks: the keys and values of up to `capacity` positions, on the device. */
export class SequenceCache {
  readonly span: Span
  readonly capacity: number
  /** The number of positions that it holds. Setting it to a lower number forgets the positions from there on. */
  length = 0
  readonly #device: Device
  readonly #model: Model
  readonly #blocks: BlockCache[]

  private constructor (device: Device, model: Model, span: Span, capacity: number, blocks: BlockCache[]) {
    this.#device = device
    this.#model = model
    this.span = span
    this.capacity = capacity
    this.#blocks = blocks
  }

  /** Makes an empty cache. The caller frees it with `free`. */
  static async create (device: Device, model: Model, span: Span, capacity: number): Promise<SequenceCache> {
    using scope = new Scope(device)
    const blocks: BlockCache[] = []
    for (let layer = span.first; layer < span.end; layer++) {
      const room = Math.min(FIRST_POSITIONS, mostPositions(model, layer, capacity))
      blocks.push({ key: await zeros(scope, device, model, room), value: await zeros(scope, device, model, room), first: 0 })
    }
    scope.release(tensorsOf(blocks))
    return new SequenceCache(device, model, span, capacity, blocks)
  }

  /**
   * Returns whether tokens from `position` on can be computed: whether the cache still has every key that they attend to. The last run can
   * always be repeated, and a sequence can always begin again at 0.
   */
  holds (position: number): boolean {
    return position <= this.length &&
      (position === 0 || this.#blocks.every(({ first }, i) => first <= firstKept(this.#model, this.span.first + i, position)))
  }

  /**
   * Makes room for the tokens from `length` up to this number of positions. The caller does not call it while a run uses the cache. Throws
   * RangeError for a number beyond the capacity, for more tokens than a run may have, and for tokens that attend to keys that the cache has
   * forgotten.
   */
  async reserve (positions: number): Promise<void> {
    const rows = positions - this.length
    if (positions > this.capacity) throw new RangeError(`${positions} positions do not fit a cache of ${this.capacity}`)
    if (rows > maxChunkTokens(this.#model))
      throw new RangeError(`a run of this model has ${maxChunkTokens(this.#model)} rows of a sequence at most, not ${rows}`)
    if (!this.holds(this.length)) throw new RangeError(`the cache has forgotten what rows from ${this.length} on see`)
    for (const [i, { key, value, first: before }] of this.#blocks.entries()) {
      const first = this.length === 0 ? 0 : before
      const room = key.shape[2]!
      const layer = this.span.first + i
      const most = mostPositions(this.#model, layer, this.capacity)
      this.#blocks[i] = positions - first <= room
        ? { key, value, first }
        : await this.#moved(
          { key, value, first },
          positions - first <= most ? first : firstKept(this.#model, layer, this.length),
          Math.min(most, Math.max(positions - first, 2 * room))
        )
    }
  }

  /** Returns the keys and values of a block, by its number in the model. Making room replaces them. */
  block (number: number): BlockCache {
    const found = this.#blocks[number - this.span.first]
    if (found === undefined) throw new RangeError(`the cache holds blocks [${this.span.first}, ${this.span.end}), not ${number}`)
    return found
  }

  /** Bytes of device memory that it has by now. */
  get bytes (): number {
    return tensorsOf(this.#blocks).reduce((sum, { dtype, shape }) => sum + elementCount(shape) * bytesPerElement[dtype], 0)
  }

  /** Frees the keys and values. */
  free (): void {
    this.#device.free(...tensorsOf(this.#blocks))
  }

  /** Copies the keys and values of a block from position `first` on to memory for `room` positions, and frees the old ones. */
  async #moved (block: BlockCache, first: number, room: number): Promise<BlockCache> {
    const { kvHeads } = this.#model
    const size = cachedHeadSize(this.#model)
    const executable = await compiled(this.#device, `cache.move ${kvHeads} ${size}`, () => {
      const graph = new Graph()
      const rows = (name: string) => graph.input(name, 'float32', [1, kvHeads, name, size])
      graph.output('after', concat([gather(rows('before'), graph.input('kept', 'int32', ['kept']), 2), rows('more')], 2))
      return program('cache-move', graph)
    })
    const from = first - block.first
    const count = block.key.shape[2]! - from
    const kept = int32([count], Int32Array.from({ length: count }, (_, i) => from + i))
    using scope = new Scope(this.#device)
    const more = await zeros(scope, this.#device, this.#model, room - count)
    const after = async (before: DeviceTensor): Promise<DeviceTensor> =>
      scope.own((await executable.run({ before, kept, more }, { keep: 'all' })).after as DeviceTensor)
    const moved = { key: await after(block.key), value: await after(block.value), first }
    scope.release(tensorsOf([moved]))
    this.#device.free(...tensorsOf([block]))
    return moved
  }
}

async function zeros (scope: Scope, device: Device, model: Model, positions: number): Promise<DeviceTensor> {
  return scope.own(await device.zeros('float32', [1, model.kvHeads, positions, cachedHeadSize(model)]))
}

function tensorsOf (blocks: readonly BlockCache[]): DeviceTensor[] {
  return blocks.flatMap(({ key, value }) => [key, value])
}
