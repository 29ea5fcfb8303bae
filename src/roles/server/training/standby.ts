import { writeSnapshot } from '../../../model/checkpoint/snapshot.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { isFiniteTensor, type Tensor } from '../../../tensor.ts'
import type { Logger } from '../../logger.ts'
import { checkTrainingMeta } from '../../training/coordinator-state.ts'

/** Tensors of a state at most: adapters, moments and averages of a model with hundreds of blocks, once for each of several servers. */
export const MAX_STANDBY_TENSORS = 262_144

export interface StandbyOptions {
  readonly path: string
  /** The federation's id, in hex. */
  readonly federation: string
  /** Bytes of a whole state, at most. */
  readonly maxBytes: number
  readonly logger: Logger
}

/** The copy of the coordinator's state on a server that may lead one day: taken in parts, checked, and written whole. */
export class Standby {
  readonly #logger: Logger
  readonly #path: string
  readonly #federation: string
  readonly #maxBytes: number
  #meta = ''
  #bytes = 0
  #tensors = new Map<string, Tensor>()

  constructor ({ path, federation, maxBytes, logger }: StandbyOptions) {
    this.#logger = logger
    this.#path = path
    this.#federation = federation
    this.#maxBytes = maxBytes
  }

  /** Takes a part. Throws BadMessageError for what no state has. */
  add (meta: string, names: readonly string[], tensors: readonly Tensor[]): void {
    if (names.length !== tensors.length) throw new BadMessageError(`${tensors.length} tensors of a state came with ${names.length} names`)
    if (meta !== '') this.#meta = meta
    for (const [index, name] of names.entries()) {
      const value = tensors[index] as Tensor
      this.#bytes += value.data.byteLength
      if (this.#tensors.has(name)) throw new BadMessageError('a tensor of a state came twice')
      if (this.#bytes > this.#maxBytes || this.#tensors.size >= MAX_STANDBY_TENSORS) throw new BadMessageError('a state is too large')
      if (value.dtype !== 'float32' && value.dtype !== 'int32') throw new BadMessageError('a tensor of a state is of no such type')
      if (!isFiniteTensor(value)) throw new BadMessageError('a state is not finite')
      this.#tensors.set(name, value)
    }
  }

  /** Writes the copy, all of whose parts have come. Throws BadMessageError where it is no state, or of another round. */
  async write (round: number): Promise<void> {
    const [meta, tensors] = [this.#meta, this.#tensors]
    this.clear()
    let parsed: unknown
    try {
      parsed = JSON.parse(meta)
    } catch {
      throw new BadMessageError('a state is not JSON')
    }
    const checked = checkTrainingMeta(parsed, this.#federation)
    if (checked === undefined || checked.round !== round) throw new BadMessageError('a state is not one of training')
    try {
      await writeSnapshot(this.#path, { meta: checked, tensors })
    } catch (error) {
      // The copy before it is whole. A server whose disk is full still computes.
      this.#logger.warn({ round, err: error }, 'a copy of the state of training cannot be kept')
    }
  }

  /** Forgets the parts that came. */
  clear (): void {
    this.#meta = ''
    this.#bytes = 0
    this.#tensors = new Map()
  }
}
