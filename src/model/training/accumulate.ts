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
