import { float32, type Tensor } from '../../tensor.ts'
import { Graph } from '../graph/graph.ts'
import { add, div, mul, reduceSum, sqrt, sub } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import {
  isDeviceTensor, type AnyTensor, type Device, type DeviceTensor, type Executable, type OutputRef, type ProgramCall
} from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'

/** AdamW with decoupled weight decay, as torch.optim.AdamW computes it. */
export interface OptimizerSettings {
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly weightDecay: number
}

export interface StepSettings {
  readonly learningRate: number
  /** The factor of gradients before anything else: the clipping coefficient over the number of tokens that they are summed over. */
  readonly scale: number
}

/** An optimiser's state for one tensor, of that tensor's shape, on the device. */
export interface Moments {
  /** First and second moment of the gradient. */
  readonly m: DeviceTensor
  readonly v: DeviceTensor
  /** Steps taken. */
  readonly t: number
}

/** A tensor that takes a step, with its optimiser state and gradient. */
export interface Stepping {
  readonly value: DeviceTensor
  readonly moments: Moments
  readonly gradient: AnyTensor
}

/** A tensor, and what it is multiplied by. */
export interface Weighted {
  readonly value: AnyTensor
  readonly weight: number
}

/** Host tensors of one message of a sum: they are copied for it, and a message costs as much as copying some 100 KiB. */
const SUM_MESSAGE_BYTES = 2 ** 24

/** AdamW's outputs take the place of these inputs. Each of them is read before the output that depends on it is written. */
const IN_PLACE = { nextValue: 'value', nextM: 'm', nextV: 'v' }

/** Computes the steps of AdamW on a device: one program for tensors of every shape, and one message to the device for all of them. */
export class Optimizer {
  readonly #device: Device
  readonly #settings: OptimizerSettings
  readonly #adamW: Executable
  readonly #squares: Executable
  readonly #sum: Executable

  private constructor (
    device: Device,
    settings: OptimizerSettings,
    executables: { adamW: Executable, squares: Executable, sum: Executable }
  ) {
    this.#device = device
    this.#settings = settings
    this.#adamW = executables.adamW
    this.#squares = executables.squares
    this.#sum = executables.sum
  }

  static async open (device: Device, settings: OptimizerSettings): Promise<Optimizer> {
    return new Optimizer(device, settings, {
      adamW: await device.compile(adamWProgram()),
      squares: await device.compile(sumOfSquaresProgram()),
      sum: await device.compile(weightedSumProgram())
    })
  }

  /** Steps each tensor once: its value and moments change in place. Where the device fails, some tensors have changed. */
  async step (tensors: readonly Stepping[], { learningRate, scale }: StepSettings): Promise<void> {
    if (tensors.length === 0) return
    const { beta1, beta2, epsilon, weightDecay } = this.#settings
    // Equal numbers are one tensor each, which travels to the device once.
    const fixed = {
      scale: scalar(scale),
      keep1: scalar(beta1),
      take1: scalar(1 - beta1),
      keep2: scalar(beta2),
      take2: scalar(1 - beta2),
      decay: scalar(1 - learningRate * weightDecay),
      epsilon: scalar(epsilon)
    }
    const corrections = new Map([...new Set(tensors.map(({ moments: { t } }) => t + 1))].map((t) => [t, {
      step: scalar(learningRate / (1 - beta1 ** t)),
      correction: scalar(1 / Math.sqrt(1 - beta2 ** t))
    }]))
    await this.#device.runSequence(tensors.map(({ value, moments: { m, v, t }, gradient }) => ({
      executable: this.#adamW, inputs: { value, m, v, gradient, ...fixed, ...corrections.get(t + 1) }, inPlace: IN_PLACE
    })))
  }

  /** Computes the L2 norm over all of these tensors together. */
  async norm (tensors: Iterable<AnyTensor>): Promise<number> {
    let before: Tensor | OutputRef = scalar(0)
    const calls = []
    for (const x of tensors) {
      calls.push({ executable: this.#squares, inputs: { x, before } })
      before = { output: 'squares' }
    }
    if (calls.length === 0) return 0
    const { squares } = await this.#device.runSequence(calls)
    return Math.sqrt((squares as Tensor).data[0] as number)
  }

  /**
   * Computes the sum of tensors, each times its weight, in their order. The tensors of many clients go to the device in few messages. The
   * caller keeps the tensors, and frees the result. Throws RangeError where there are none.
   */
  async weightedTotal ([first, ...others]: readonly Weighted[]): Promise<DeviceTensor> {
    if (first === undefined) throw new RangeError('there are no tensors to sum')
    using scope = new Scope(this.#device)
    const one = scalar(1)
    let total: Weighted = first
    for (const group of groupsWithin(others.length === 0 ? [{ ...first, weight: 0 }] : others, SUM_MESSAGE_BYTES)) {
      const before = { a: total.value, aWeight: scalar(total.weight) }
      const calls = group.map(({ value, weight }, i): ProgramCall => ({
        executable: this.#sum,
        inputs: { ...i === 0 ? before : { a: { output: 'sum' }, aWeight: one }, b: value, bWeight: scalar(weight) }
      }))
      const { sum } = await this.#device.runSequence(calls, { keep: 'all' })
      if (total !== first) scope.free(total.value as DeviceTensor)
      total = { value: scope.own(sum as DeviceTensor), weight: 1 }
    }
    scope.release([total.value as DeviceTensor])
    return total.value as DeviceTensor
  }
}

/** Computes the factor that brings a gradient's norm down to the greatest allowed, as torch.nn.utils.clip_grad_norm_ does. */
export function clippingCoefficient (norm: number, greatest: number | null): number {
  return greatest === null ? 1 : Math.min(1, greatest / (norm + 1e-6))
}

function adamWProgram (): Program {
  const graph = new Graph()
  const any = (name: string) => graph.input(name, 'float32', undefined)
  const one = (name: string) => graph.input(name, 'float32', [])
  const gradient = mul(any('gradient'), one('scale'))
  const m = add(mul(any('m'), one('keep1')), mul(gradient, one('take1')))
  const v = add(mul(any('v'), one('keep2')), mul(mul(gradient, gradient), one('take2')))
  const deviation = add(mul(sqrt(v), one('correction')), one('epsilon'))
  graph.output('nextValue', sub(mul(any('value'), one('decay')), mul(one('step'), div(m, deviation))))
  graph.output('nextM', m)
  graph.output('nextV', v)
  return program('adamw', graph)
}

function sumOfSquaresProgram (): Program {
  const graph = new Graph()
  const x = graph.input('x', 'float32', undefined)
  graph.output('squares', add(graph.input('before', 'float32', []), reduceSum(mul(x, x))))
  return program('sum-of-squares', graph)
}

function weightedSumProgram (): Program {
  const graph = new Graph()
  const weighted = (name: string) => mul(graph.input(name, 'float32', undefined), graph.input(`${name}Weight`, 'float32', []))
  graph.output('sum', add(weighted('a'), weighted('b')))
  return program('weighted-sum', graph)
}

/** Cuts weighted tensors into groups whose host tensors have at most this many bytes; a larger one is alone. */
function groupsWithin (weighted: readonly Weighted[], mostBytes: number): Weighted[][] {
  const groups: Weighted[][] = []
  let bytes = Infinity
  for (const one of weighted) {
    const own = isDeviceTensor(one.value) ? 0 : one.value.data.byteLength
    if (bytes + own > mostBytes) {
      groups.push([])
      bytes = 0
    }
    bytes += own
    groups.at(-1)!.push(one)
  }
  return groups
}

function scalar (value: number): Tensor {
  return float32([], [value])
}
