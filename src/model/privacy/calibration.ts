import type { Tensor } from '../../tensor.ts'
import { Graph } from '../graph/graph.ts'
import { mul, reduceSum, sqrt } from '../graph/operators/index.ts'
import { program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import type { Boundary } from './boundary.ts'

/** Blocks before which rows leave a client: hidden rows before `hidden`, gradient rows before `gradient`. */
export interface Cuts {
  readonly hidden: readonly number[]
  readonly gradient: readonly number[]
}

/** A clip norm for each cut. */
export interface Clips {
  readonly hidden: Record<string, number>
  readonly gradient: Record<string, number>
}

/** What the model loses on the sample where hidden states are released with this much noise, in nats for each token. */
export interface NoiseLoss {
  readonly noise: number
  readonly loss: number
}

/** The losses of each measured cut, by rising noise. The first is that without noise. */
export type NoiseLosses = Record<string, NoiseLoss[]>

export interface Calibration {
  readonly clips: Clips
  readonly losses: NoiseLosses
}

/** Runs a sample through a whole model, of which a device need not hold more than a block at a time. Hidden states are [tokens, hidden]. */
export interface SampleRun {
  readonly blocks: number
  /** Computes the hidden states that enter the first block. The caller frees them. */
  embed (): Promise<DeviceTensor>
  /** Runs several hidden states through one block, which is loaded once. The caller frees what comes back, and what it gave. */
  advance (block: number, hidden: readonly DeviceTensor[]): Promise<DeviceTensor[]>
  /** Computes the gradient of the loss for the hidden states before a block. The caller frees it. */
  gradient (block: number, hidden: DeviceTensor): Promise<DeviceTensor>
  /** Computes the mean loss, in nats, of each of these hidden states after the last block. */
  losses (hidden: readonly DeviceTensor[]): Promise<number[]>
}

export interface CalibrationSettings {
  readonly cuts: Cuts
  /** The clip norm of every cut; measured where it is left out. */
  readonly clip?: number | undefined
  /** Whether hidden states without noise are clipped too. */
  readonly clipAlways: boolean
  /** The noise that the loss is measured with, besides that of `NOISE_STEPS`. */
  readonly noise: number
}

/** From noise that costs hardly anything to noise about as large as a state. Each is one more run of the sample through the model. */
export const NOISE_STEPS: readonly number[] = [0.05, 0.1, 0.2, 0.5]

/** The share of rows that the clip leaves as they are: the rest, above all the huge rows of first tokens, would cost everyone noise. */
const QUANTILE = 0.95

/**
 * Measures on a sample of text how long rows are at each cut, and what noise costs. The clip is a length that few rows exceed. The losses
 * are those of the untrained model, with hidden states protected and rounded as a client's are, and with the residual stream kept by the
 * client until the last of the cuts for gradients, where its top begins. They are measured at the first and the last of the cuts.
 */
export async function calibrate (
  device: Device,
  boundary: Boundary,
  sample: SampleRun,
  { cuts, clip, clipAlways, noise }: CalibrationSettings,
  signal: AbortSignal,
  onBlock?: (block: number, blocks: number) => void
): Promise<Calibration> {
  const clips: Clips = { hidden: {}, gradient: {} }
  const measured = new Set([cuts.hidden[0], cuts.hidden.at(-1)])
  const levels = [...new Set([0, ...NOISE_STEPS, noise])].sort((a, b) => a - b)
  const variants: Variant[] = []
  let protectedStates: DeviceTensor[] = []
  using scope = new Scope(device)
  let hidden = scope.own(await sample.embed())
  for (let block = 0; block <= sample.blocks; block++) {
    signal.throwIfAborted()
    onBlock?.(block, sample.blocks)
    if (cuts.hidden.includes(block)) {
      const norm = clips.hidden[block] = clip ?? await typicalNorm(device, hidden)
      for (const noise of measured.has(block) ? levels : []) {
        const protection = { clip: noise > 0 || clipAlways ? norm : null, noise }
        const { tensors } = await boundary.protect(hidden, protection)
        variants.push({ cut: block, noise, tensors, kept: protection.clip === null ? undefined : await device.download(hidden) })
        protectedStates.push(scope.own(await boundary.decode(tensors)))
      }
    }
    if (cuts.gradient.includes(block)) {
      const gradient = clip ?? scope.own(await sample.gradient(block, hidden))
      clips.gradient[block] = typeof gradient === 'number' ? gradient : await typicalNorm(device, gradient)
      if (typeof gradient !== 'number') scope.free(gradient)
    }
    if (block === cuts.gradient.at(-1)) protectedStates = await onStream(boundary, scope, variants, protectedStates)
    if (block === sample.blocks) break
    const [next, ...others] = await sample.advance(block, [hidden, ...protectedStates])
    scope.free(hidden, ...protectedStates)
    hidden = scope.own(next!)
    protectedStates = others.map((state) => scope.own(state))
  }
  const losses: NoiseLosses = {}
  for (const [i, loss] of (await sample.losses(protectedStates)).entries()) {
    const { cut, noise } = variants[i]!
    if (Number.isFinite(loss)) (losses[cut] ??= []).push({ noise, loss: Number(loss.toPrecision(4)) })
  }
  return { clips, losses }
}

/** Hidden states that were released at a cut. */
interface Variant {
  readonly cut: number
  readonly noise: number
  /** As they left. */
  readonly tensors: readonly Tensor[]
  /** As they were, where that is something else. */
  readonly kept: Tensor | undefined
}

/** Puts what came of released hidden states onto those that stayed with the client. The scope owns what is given and what comes back. */
async function onStream (
  boundary: Boundary,
  scope: Scope,
  variants: readonly Variant[],
  states: readonly DeviceTensor[]
): Promise<DeviceTensor[]> {
  return await Promise.all(states.map(async (state, i) => {
    const { kept, tensors } = variants[i]!
    if (kept === undefined) return state
    const whole = scope.own(await boundary.computed(await boundary.keepStream(kept, tensors, state)))
    scope.free(state)
    return whole
  }))
}

/** Returns the norm that the chosen share of rows [rows, hidden] stays below, rounded to three digits for people to read. */
async function typicalNorm (device: Device, rows: DeviceTensor): Promise<number> {
  const hidden = rows.shape[1] as number
  const executable = await compiled(device, `row-norms ${hidden}`, () => {
    const graph = new Graph()
    const input = graph.input('rows', 'float32', ['rows', hidden])
    graph.output('norms', sqrt(reduceSum(mul(input, input), [1])))
    return program('row-norms', graph)
  })
  const { norms } = await executable.run({ rows })
  const sorted = Float32Array.from((norms as Tensor).data as Float32Array).sort()
  return Number((sorted[Math.floor(QUANTILE * (sorted.length - 1))] as number).toPrecision(3))
}
