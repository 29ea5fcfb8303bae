import type { Device, DeviceTensor } from '../runtime/device.ts'
import { addTensors } from './rows.ts'

/** Adds gradients into a sum, by name; takes charge of them. */
export async function accumulate (device: Device, sum: Map<string, DeviceTensor>, gradients: ReadonlyMap<string, DeviceTensor>): Promise<void> {
  for (const [name, gradient] of gradients) {
    const before = sum.get(name)
    if (before === undefined) {
      sum.set(name, gradient)
    } else {
      sum.set(name, await addTensors(device, before, gradient))
      device.free(before, gradient)
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

  [Symbol.dispose] (): void {
    this.#device.free(...this.gradients.values())
    this.gradients.clear()
  }
}
