import type { ModelWeights } from '../../../model/layers/weights.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { checkMagnitude, expectTensor } from '../../../protocols/wire/hidden-states.ts'
import type { Tensor } from '../../../tensor.ts'
import type { AdapterShape } from '../../training/aggregation/strategy.ts'

/** The adapters of a worker's blocks: a copy of the coordinator's, as of some round. They are values alone, and nothing of them is kept. */
export class WorkerAdapters {
  readonly #weights: ModelWeights
  readonly #shapes: ReadonlyMap<string, readonly number[]>
  #round: number | undefined

  constructor (weights: ModelWeights, shapes: readonly AdapterShape[]) {
    this.#weights = weights
    this.#shapes = new Map(shapes.map(({ name, shape }) => [name, shape]))
  }

  /** Rounds whose step is in them; undefined before a coordinator has sent any. */
  get round (): number | undefined { return this.#round }

  /** Checks a part of the adapters. Throws BadMessageError. */
  check (names: readonly string[], tensors: readonly Tensor[]): Array<[string, Tensor]> {
    if (names.length !== tensors.length) throw new BadMessageError(`${tensors.length} adapter tensors came with ${names.length} names`)
    return names.map((name, index) => {
      const shape = this.#shapes.get(name)
      if (shape === undefined) throw new BadMessageError('an adapter came that these blocks do not have')
      const value = tensors[index]
      expectTensor(name, value, 'float32', shape)
      checkMagnitude(name, value)
      return [name, value]
    })
  }

  /** Takes over values that were checked, all of them. Throws BadMessageError where some are missing. */
  async take (round: number, values: ReadonlyMap<string, Tensor>): Promise<void> {
    if (values.size !== this.#shapes.size)
      throw new BadMessageError(`${values.size} adapter tensors came: these blocks have ${this.#shapes.size}`)
    await this.#weights.setTrained(values)
    this.#round = round
  }
}
