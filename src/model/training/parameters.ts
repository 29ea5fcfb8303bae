import { int32, type Tensor } from '../../tensor.ts'
import type { AnyTensor, Device, DeviceTensor } from '../runtime/device.ts'
import type { Moments, Optimizer, StepSettings } from './optimizer.ts'

/** Suffixes of the tensors that a parameter's optimiser state is kept under: first and second moment, steps taken. */
const STATE_SUFFIXES = ['.m', '.v', '.t'] as const

/** The optimiser's state of trained tensors, beside the tensors themselves, on a device. */
export class Parameters {
  readonly #device: Device
  readonly #values: Map<string, DeviceTensor>
  readonly #moments = new Map<string, Moments>()

  private constructor (device: Device, values: Map<string, DeviceTensor>) {
    this.#device = device
    this.#values = values
  }

  /** Tensors that have taken no step. Their map stays the caller's, such as `ModelWeights.trained`; `restore` replaces its entries. */
  static async create (device: Device, values: Map<string, DeviceTensor>): Promise<Parameters> {
    const parameters = new Parameters(device, values)
    for (const [name, { shape }] of values) {
      parameters.#moments.set(name, { m: await device.zeros('float32', shape), v: await device.zeros('float32', shape), t: 0 })
    }
    return parameters
  }

  get names (): string[] { return [...this.#moments.keys()] }

  /** Returns the current value; `restore` replaces it by another device tensor. Throws RangeError for an unknown name. */
  value (name: string): DeviceTensor {
    return known(name, this.#values.get(name))
  }

  /**
   * Steps each tensor that has a gradient, in place. Throws RangeError for a gradient of anything else; where the device fails, `restore`
   * what was.
   */
  async step (optimizer: Optimizer, gradients: ReadonlyMap<string, AnyTensor>, settings: StepSettings): Promise<void> {
    const stepping = [...gradients].map(([name, gradient]) => ({ name, value: this.value(name), moments: this.#momentsOf(name), gradient }))
    await optimizer.step(stepping, settings)
    for (const { name, moments } of stepping) this.#moments.set(name, { ...moments, t: moments.t + 1 })
  }

  /** Returns values alone, in host memory. */
  async values (names: readonly string[] = this.names): Promise<Map<string, Tensor>> {
    const values = await this.#device.downloadAll(names.map((name) => this.value(name)))
    return new Map(names.map((name, index) => [name, values[index] as Tensor]))
  }

  /** Returns values and optimiser state, in host memory, so that `restore` continues exactly. */
  async state (names: readonly string[] = this.names): Promise<Map<string, Tensor>> {
    const parts = names.flatMap((name) => {
      const { m, v } = this.#momentsOf(name)
      return [[name, this.value(name)], [`${name}.m`, m], [`${name}.v`, v]] as Array<[string, DeviceTensor]>
    })
    const downloaded = await this.#device.downloadAll(parts.map(([, part]) => part))
    const state = new Map(parts.map(([name], index) => [name, downloaded[index] as Tensor]))
    for (const name of names) state.set(`${name}.t`, int32([1], [this.#momentsOf(name).t]))
    return state
  }

  /**
   * Sets what `state` has of each tensor's value and optimiser state; other names in it are ignored. Throws RangeError for a part of
   * another shape; then nothing is set.
   */
  async restore (state: ReadonlyMap<string, Tensor>): Promise<void> {
    for (const name of this.names) {
      for (const part of stateNames(name)) {
        const [found, wanted] = [state.get(part)?.shape, stateShape(part, this.value(name).shape)]
        if (found !== undefined && String(found) !== String(wanted))
          throw new RangeError(`${part} is [${found.join(', ')}], not [${wanted.join(', ')}]`)
      }
    }
    for (const name of this.names) {
      const moments = this.#momentsOf(name)
      this.#values.set(name, await this.#replaced(this.value(name), state.get(name)))
      this.#moments.set(name, {
        m: await this.#replaced(moments.m, state.get(`${name}.m`)),
        v: await this.#replaced(moments.v, state.get(`${name}.v`)),
        t: Number(state.get(`${name}.t`)?.data[0] ?? moments.t)
      })
    }
  }

  /** Frees the optimiser's state; the values are the caller's. */
  free (): void {
    this.#device.free(...[...this.#moments.values()].flatMap(({ m, v }) => [m, v]))
    this.#moments.clear()
  }

  async #replaced (before: DeviceTensor, value: Tensor | undefined): Promise<DeviceTensor> {
    if (value === undefined) return before
    const uploaded = await this.#device.upload(value)
    this.#device.free(before)
    return uploaded
  }

  #momentsOf (name: string): Moments {
    return known(name, this.#moments.get(name))
  }
}

/** Returns the names under which `Parameters.state` keeps a tensor. */
export function stateNames (name: string): string[] {
  return [name, ...STATE_SUFFIXES.map((suffix) => name + suffix)]
}

/** Returns the shape that each part of a tensor's state has. */
export function stateShape (stateName: string, shape: readonly number[]): readonly number[] {
  return stateName.endsWith('.t') ? [1] : shape
}

function known<T> (name: string, value: T | undefined): T {
  if (value === undefined) throw new RangeError(`there is no trained tensor ${name}`)
  return value
}
