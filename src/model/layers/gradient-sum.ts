import type { Device, DeviceTensor } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import { addTensors } from './hidden-states.ts'

/**
 * Adds gradients into a sum, by name. Owns the gradients from the call on: each ends up in `sum` or is freed, also where an addition
 * throws, so that the caller must not free them. The caller frees what is in `sum`.
 */
export async function accumulate (
  device: Device,
  sum: Map<string, DeviceTensor>,
  gradients: ReadonlyMap<string, DeviceTensor>
): Promise<void> {
  using scope = new Scope(device)
  for (const gradient of gradients.values()) scope.own(gradient)
  for (const [name, gradient] of gradients) {
    const before = sum.get(name)
    if (before === undefined) {
      scope.release([gradient])
      sum.set(name, gradient)
    } else {
      sum.set(name, await addTensors(device, before, gradient))
      device.free(before)
    }
  }
}

/** Gradients of several passes, summed as they come: it holds one tensor a parameter, however many passes there are. */
export class GradientSum implements Disposable {
  readonly gradients = new Map<string, DeviceTensor>()
  readonly #device: Device

  constructor (device: Device) {
    this.#device = device
  }

  /** Adds a pass's gradients; takes charge of them. */
  async add (gradients: ReadonlyMap<string, DeviceTensor>): Promise<void> {
    await accumulate(this.#device, this.gradients, gradients)
  }

  /** Hands the sums over to the caller, who frees them, and starts anew. */
  take (): Map<string, DeviceTensor> {
    const taken = new Map(this.gradients)
    this.gradients.clear()
    return taken
  }

  [Symbol.dispose] (): void {
    this.#device.free(...this.gradients.values())
    this.gradients.clear()
  }
}
