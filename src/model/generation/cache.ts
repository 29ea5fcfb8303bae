import type { Model, Span } from '../families/family.ts'
import { Graph } from '../graph/graph.ts'
import { concat } from '../graph/operators/index.ts'
import { program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import { cachedHeadSize } from './cached-attention.ts'

/** Keys and values of one block: float32 [1, kvHeads, positions, cachedHeadSize] each. */
export interface BlockCache {
  readonly key: DeviceTensor
  readonly value: DeviceTensor
}

/**
 * Room taken at first, in positions. A step of onnxruntime's cached attention clears what a cache has beyond its length, so that it costs
 * in proportion to the room: caches grow with their sequences, by doubling, rather than start at their capacity.
 */
const FIRST_POSITIONS = 256

/** Bytes that a sequence's cache takes on the device when it is full. */
export function cacheBytes (model: Model, { first, end }: Span, capacity: number): number {
  return (end - first) * 2 * model.kvHeads * capacity * cachedHeadSize(model) * Float32Array.BYTES_PER_ELEMENT
}

/** One sequence's keys and values in a span of blocks, with room for up to `capacity` positions. */
export class SequenceCache {
  readonly span: Span
  readonly capacity: number
  /** Positions held. Setting it lower forgets what comes after. */
  length = 0
  readonly #device: Device
  readonly #model: Model
  #positions: number
  #blocks: readonly BlockCache[]

  private constructor (device: Device, model: Model, span: Span, capacity: number, positions: number, blocks: readonly BlockCache[]) {
    this.#device = device
    this.#model = model
    this.span = span
    this.capacity = capacity
    this.#positions = positions
    this.#blocks = blocks
  }

  static async create (device: Device, model: Model, span: Span, capacity: number): Promise<SequenceCache> {
    const positions = Math.min(capacity, FIRST_POSITIONS)
    using scope = new Scope(device)
    const blocks: BlockCache[] = []
    for (let block = span.first; block < span.end; block++) blocks.push({ key: await zeros(scope, device, model, positions), value: await zeros(scope, device, model, positions) })
    scope.release(tensorsOf(blocks))
    return new SequenceCache(device, model, span, capacity, positions, blocks)
  }

  /** Makes room for this many positions. Throws RangeError beyond the capacity. Not while a run uses the cache. */
  async reserve (positions: number): Promise<void> {
    if (positions > this.capacity) throw new RangeError(`${positions} positions do not fit a cache of ${this.capacity}`)
    if (positions <= this.#positions) return
    const wanted = Math.min(this.capacity, Math.max(positions, 2 * this.#positions))
    using scope = new Scope(this.#device)
    const more = await zeros(scope, this.#device, this.#model, wanted - this.#positions)
    const blocks: BlockCache[] = []
    for (const { key, value } of this.#blocks) blocks.push({ key: await this.#joined(scope, key, more), value: await this.#joined(scope, value, more) })
    scope.release(tensorsOf(blocks))
    this.free()
    this.#blocks = blocks
    this.#positions = wanted
  }

  /** The cache of a block, by its number in the model; growing replaces it. */
  block (number: number): BlockCache {
    const found = this.#blocks[number - this.span.first]
    if (found === undefined) throw new RangeError(`the cache holds blocks [${this.span.first}, ${this.span.end}), not ${number}`)
    return found
  }

  free (): void {
    this.#device.free(...tensorsOf(this.#blocks))
  }

  async #joined (scope: Scope, before: DeviceTensor, more: DeviceTensor): Promise<DeviceTensor> {
    const { kvHeads } = this.#model
    const headSize = cachedHeadSize(this.#model)
    const executable = await compiled(this.#device, `cache.grow ${kvHeads} ${headSize}`, () => {
      const graph = new Graph()
      const part = (name: string) => graph.input(name, 'float32', [1, kvHeads, name, headSize])
      graph.output('grown', concat([part('before'), part('more')], 2))
      return program('cache-grow', graph)
    })
    const { grown } = await executable.run({ before, more }, { keep: 'all' })
    return scope.own(grown as DeviceTensor)
  }
}

async function zeros (scope: Scope, device: Device, model: Model, positions: number): Promise<DeviceTensor> {
  return scope.own(await device.zeros('float32', [1, model.kvHeads, positions, cachedHeadSize(model)]))
}

function tensorsOf (blocks: readonly BlockCache[]): DeviceTensor[] {
  return blocks.flatMap(({ key, value }) => [key, value])
}
