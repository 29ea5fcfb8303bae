import { isDeviceTensor, type AnyTensor, type Device, type DeviceTensor } from './device.ts'

/** Owns device tensors that must not outlive a piece of work, and frees them when it is disposed of. */
export class Scope implements Disposable {
  readonly #device: Device
  readonly #owned = new Set<DeviceTensor>()

  constructor (device: Device) {
    this.#device = device
  }

  /** Owns a tensor from now on, and returns it. Host tensors need no owner. */
  own<T extends AnyTensor> (value: T): T {
    if (isDeviceTensor(value)) this.#owned.add(value)
    return value
  }

  /** Returns a tensor on the device. A host tensor is uploaded, and the scope owns the copy. */
  async upload (value: AnyTensor): Promise<DeviceTensor> {
    return isDeviceTensor(value) ? value : this.own(await this.#device.upload(value))
  }

  /** Frees tensors before the scope ends. */
  free (...values: readonly DeviceTensor[]): void {
    this.release(values)
    this.#device.free(...values)
  }

  /** Gives tensors up: their next owner frees them. */
  release (values: readonly DeviceTensor[]): void {
    for (const value of values) this.#owned.delete(value)
  }

  [Symbol.dispose] (): void {
    this.#device.free(...this.#owned)
    this.#owned.clear()
  }
}
