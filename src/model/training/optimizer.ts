import { Graph } from '../graph/graph.ts'
import { add, div, mul, reduceSum, sqrt, sub } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import type { AnyTensor, Device, DeviceTensor, Executable } from '../runtime/device.ts'
import { float32, type Tensor } from '../../tensor.ts'

/** AdamW with decoupled weight decay, as torch.optim.AdamW computes it. */
export interface OptimizerSettings {
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly weightDecay: number
}

export interface StepSettings {
  readonly learningRate: number
  /** What gradients are multiplied by first: one over the tokens that they are summed over, times the clipping coefficient. */
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

/** The part of a step that is arithmetic on tensors: one program for every shape. */
export class Optimizer {
  readonly #settings: OptimizerSettings
  readonly #adamW: Executable
  readonly #squares: Executable
  readonly #sum: Executable

  private constructor (settings: OptimizerSettings, executables: { adamW: Executable, squares: Executable, sum: Executable }) {
    this.#settings = settings
    this.#adamW = executables.adamW
    this.#squares = executables.squares
    this.#sum = executables.sum
  }

  static async open (device: Device, settings: OptimizerSettings): Promise<Optimizer> {
    return new Optimizer(settings, {
      adamW: await device.compile(adamWProgram()),
      squares: await device.compile(sumOfSquaresProgram()),
      sum: await device.compile(weightedSumProgram())
    })
  }

  /** The value and moments of a tensor after one more step. The caller keeps the old ones. */
  async step (before: DeviceTensor, moments: Moments, gradient: AnyTensor, { learningRate, scale }: StepSettings): Promise<{ value: DeviceTensor, moments: Moments }> {
    const { beta1, beta2, epsilon, weightDecay } = this.#settings
    const t = moments.t + 1
    const { nextValue, nextM, nextV } = await this.#adamW.run({
      value: before,
      m: moments.m,
      v: moments.v,
      gradient,
      scale: scalar(scale),
      keep1: scalar(beta1),
      take1: scalar(1 - beta1),
      keep2: scalar(beta2),
      take2: scalar(1 - beta2),
      decay: scalar(1 - learningRate * weightDecay),
      step: scalar(learningRate / (1 - beta1 ** t)),
      correction: scalar(1 / Math.sqrt(1 - beta2 ** t)),
      epsilon: scalar(epsilon)
    }, { keep: 'all' })
    return { value: nextValue as DeviceTensor, moments: { m: nextM as DeviceTensor, v: nextV as DeviceTensor, t } }
  }

  /** The L2 norm over all of these tensors together. */
  async norm (tensors: Iterable<AnyTensor>): Promise<number> {
    const sums = await Promise.all([...tensors].map(async (x) => {
      const { squares } = await this.#squares.run({ x })
      return (squares as Tensor).data[0] as number
    }))
    return Math.sqrt(sums.reduce((total, squares) => total + squares, 0))
  }

  /** `a · aWeight + b · bWeight`, on the device. The caller keeps both. */
  async weightedSum (a: AnyTensor, aWeight: number, b: AnyTensor, bWeight: number): Promise<DeviceTensor> {
    const { sum } = await this.#sum.run({ a, aWeight: scalar(aWeight), b, bWeight: scalar(bWeight) }, { keep: 'all' })
    return sum as DeviceTensor
  }
}

/** The factor that brings a gradient's norm down to the greatest allowed, as torch.nn.utils.clip_grad_norm_ has it. */
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
  graph.output('squares', reduceSum(mul(x, x)))
  return program('sum-of-squares', graph)
}

function weightedSumProgram (): Program {
  const graph = new Graph()
  const weighted = (name: string) => mul(graph.input(name, 'float32', undefined), graph.input(`${name}Weight`, 'float32', []))
  graph.output('sum', add(weighted('a'), weighted('b')))
  return program('weighted-sum', graph)
}

function scalar (value: number): Tensor {
  return float32([], [value])
}
