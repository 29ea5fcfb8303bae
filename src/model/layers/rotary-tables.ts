import type { Model } from '../families/family.ts'
import { rotaryTables } from '../families/rotary-embedding.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'

/**
 * Positions that the first tables reach to, where the model has as many: 1 MiB for heads of 128. Those for a million would take 512 MiB,
 * and seconds to make.
 */
const FIRST_POSITIONS = 2048

/** The tables that queries and keys are turned by, float32 [positions, pairs] each. */
export interface Rotations {
  readonly cos: DeviceTensor
  readonly sin: DeviceTensor
}

/** A model's rotary tables on a device, as long as its sequences have needed so far. */
export class RotaryTables {
  readonly #device: Device
  readonly #model: Model
  /** Shorter ones stay, at half the length each: a run that is still to come may have them. */
  readonly #made: Rotations[] = []
  #positions = 0
  #longest: Promise<Rotations> | undefined

  constructor (device: Device, model: Model) {
    this.#device = device
    this.#model = model
  }

  /** Tables for sequences of this many rows. They stay as long as the set. Throws RangeError for more positions than the model has. */
  async reaching (positions: number): Promise<Rotations> {
    const { maxPositions } = this.#model
    if (positions > maxPositions) throw new RangeError(`the model has ${maxPositions} positions, not ${positions}`)
    if (this.#longest === undefined || positions > this.#positions) {
      this.#positions = Math.min(maxPositions, Math.max(positions, FIRST_POSITIONS, 2 * this.#positions))
      this.#longest = this.#make(this.#positions)
      this.#longest.catch(() => { this.#longest = undefined })
    }
    return await this.#longest
  }

  free (): void {
    for (const { cos, sin } of this.#made.splice(0)) this.#device.free(cos, sin)
    this.#longest = undefined
  }

  async #make (positions: number): Promise<Rotations> {
    const { cos, sin } = rotaryTables(this.#model.rotary, positions)
    const made = { cos: await this.#device.upload(cos, { given: true }), sin: await this.#device.upload(sin, { given: true }) }
    this.#made.push(made)
    return made
  }
}
