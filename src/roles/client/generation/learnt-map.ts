import { readSnapshot, writeSnapshot } from '../../../model/checkpoint/snapshot.ts'
import { MAX_MAP_HIDDEN, MiddleMap } from '../../../model/generation/speculation/middle-map.ts'
import type { Device } from '../../../model/runtime/device.ts'
import type { Tensor } from '../../../tensor.ts'
import type { Logger } from '../../logger.ts'

export interface LearntMapComponents {
  readonly device: Device
  /** The numbers of a hidden state. */
  readonly hidden: number
  /** Where the map is kept over a restart. */
  readonly path: string
  /** Names what the map depends on besides the adapters: the federation and the partition. */
  readonly key: string
  readonly logger: Logger
}

/**
 * A client's map of its middle, which is kept over restarts as it was at its last fit. A map that was learnt with other adapters
 * is dropped.
 */
export class LearntMap {
  readonly #c: LearntMapComponents
  #current: { readonly round: number, readonly map: MiddleMap } | undefined
  #opening: Promise<MiddleMap | undefined> = Promise.resolve(undefined)
  #writing: Promise<void> = Promise.resolve()

  constructor (components: LearntMapComponents) {
    this.#c = components
  }

  /** Returns the map for adapters with the steps of this many rounds; undefined where states are too wide for one. */
  async at (round: number): Promise<MiddleMap | undefined> {
    this.#opening = this.#opening.catch(() => {}).then(async () => await this.#open(round))
    return await this.#opening
  }

  /** Frees the map, once it is kept. */
  async close (): Promise<void> {
    await this.#opening.catch(() => {})
    await this.#current?.map.close()
    this.#current = undefined
    await this.#writing
  }

  async #open (round: number): Promise<MiddleMap | undefined> {
    const { device, hidden } = this.#c
    if (hidden > MAX_MAP_HIDDEN) return undefined
    if (this.#current?.round === round) return this.#current.map
    await this.#current?.map.close()
    const map: MiddleMap = new MiddleMap(device, hidden, () => { this.#keep(map, round) })
    this.#current = { round, map }
    await this.#restore(map, round)
    return map
  }

  #keep (map: MiddleMap, round: number): void {
    const { path, key, logger } = this.#c
    this.#writing = this.#writing.then(async () => {
      try {
        const state = await map.state()
        if (state === undefined) return
        const { pairs, ...tensors } = state
        const named = Object.entries(tensors).filter((entry): entry is [string, Tensor] => entry[1] !== undefined)
        await writeSnapshot(path, { meta: { key, round, pairs }, tensors: new Map(named) })
        logger.debug({ pairs }, 'the map of the middle was fitted')
      } catch (error) {
        logger.warn({ err: error }, 'the map of the middle cannot be kept over a restart')
      }
    })
  }

  /** Takes over what is kept, if it is for these adapters. What is damaged is learnt anew. */
  async #restore (map: MiddleMap, round: number): Promise<void> {
    const { hidden, path, key, logger } = this.#c
    try {
      const kept = await readSnapshot(path)
      if (kept === undefined || kept.meta.key !== key || kept.meta.round !== round) return
      const [zz, zy, fitted] = ['zz', 'zy', 'map'].map((name) => kept.tensors.get(name))
      const width = 2 * hidden + 1
      const fits = (tensor: Tensor | undefined, ...shape: number[]): tensor is Tensor =>
        tensor?.dtype === 'float32' && tensor.shape.join() === shape.join()
      if (!fits(zz, width, width) || !fits(zy, width, hidden) || !fits(fitted, width, hidden)) return
      await map.restore({ pairs: Number(kept.meta.pairs), zz, zy, map: fitted })
    } catch (error) {
      logger.warn({ err: error }, 'the map of the middle that is kept cannot be read, and is learnt anew')
    }
  }
}
