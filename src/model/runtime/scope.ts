import { isDeviceTensor, type AnyTensor, type Device, type DeviceTensor } from './device.ts'

/** Device tensors that must not outlive a piece of work. Frees them when disposed of, all but those handed on. */
export class Scope implements Disposable {
  readonly #device: Device
  readonly #owned = new Set<DeviceTensor>()

  constructor (device: Device) {
    this.#device = device
  }

  /** Takes charge of a tensor; host tensors need none. Returns it. */
  own<T extends AnyTensor> (value: T): T {
    if (isDeviceTensor(value)) this.#owned.add(value)
    return value
  }

  /** A tensor on the device, uploaded, and owned, where it is not. */
  async upload (value: AnyTensor): Promise<DeviceTensor> {
    return isDeviceTensor(value) ? value : this.own(await this.#device.upload(value))
  }

  /** Frees tensors before the others. */
  free (...values: readonly DeviceTensor[]): void {
    this.release(values)
    this.#device.free(...values)
  }

  /** Hands tensors on: they are no longer freed here. */
  release (values: readonly DeviceTensor[]): void {
    for (const value of values) this.#owned.delete(value)
  }

  [Symbol.dispose] (): void {
    this.#device.free(...this.#owned)
    this.#owned.clear()
  }
}
