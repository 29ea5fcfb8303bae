import type { Span } from '../../span.ts'
import { int32 } from '../../tensor.ts'
import type { Model } from '../families/family.ts'
import { Graph } from '../graph/graph.ts'
import { concat, gather } from '../graph/operators/index.ts'
import { program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import { firstKept, mostPositions, rowsAtOnce } from './cache-size.ts'
import { cachedHeadSize } from './cached-attention.ts'

/**
 * Room taken at first, in positions. A step of onnxruntime's cached attention clears what a cache has beyond its length, so that it costs
 * in proportion to the room: caches grow with their sequences, by doubling, rather than start at their capacity.
 */
const FIRST_POSITIONS = 256

/** Keys and values of one block: float32 [1, kvHeads, positions, cachedHeadSize] each, of the positions from `first` on. */
export interface BlockCache {
  readonly key: DeviceTensor
  readonly value: DeviceTensor
  readonly first: number
}

/** One sequence's keys and values in a span of blocks, with room for up to `capacity` positions. */
export class SequenceCache {
  readonly span: Span
  readonly capacity: number
  /** Positions held. Setting it lower forgets what comes after. */
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

  /** Whether rows from this position on can be computed: what they see is here. Any run can be repeated, and any sequence begun again. */
  holds (position: number): boolean {
    return position <= this.length &&
      (position === 0 || this.#blocks.every(({ first }, i) => first <= firstKept(this.#model, this.span.first + i, position)))
  }

  /**
   * Makes room for the rows from `length` up to this many positions. Throws RangeError beyond the capacity, for more rows than a run may
   * have, and where what they see is forgotten. Not while a run uses the cache.
   */
  async reserve (positions: number): Promise<void> {
    const rows = positions - this.length
    if (positions > this.capacity) throw new RangeError(`${positions} positions do not fit a cache of ${this.capacity}`)
    if (rows > rowsAtOnce(this.#model))
      throw new RangeError(`a run of this model has ${rowsAtOnce(this.#model)} rows of a sequence at most, not ${rows}`)
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

  /** The cache of a block, by its number in the model; making room replaces it. */
  block (number: number): BlockCache {
    const found = this.#blocks[number - this.span.first]
    if (found === undefined) throw new RangeError(`the cache holds blocks [${this.span.first}, ${this.span.end}), not ${number}`)
    return found
  }

  free (): void {
    this.#device.free(...tensorsOf(this.#blocks))
  }

  /** A block's cache from this position on, with room for so many; the one before is freed. */
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
