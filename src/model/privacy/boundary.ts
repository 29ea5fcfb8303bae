import type { Encoding } from '../../encoding.ts'
import { elementCount, float32, tensor, type Tensor } from '../../tensor.ts'
import { fromFloat16, toFloat16 } from '../float16.ts'
import { Graph, type Value } from '../graph/graph.ts'
import {
  abs,
  add,
  cast,
  clip,
  div,
  greater,
  maximum,
  mul,
  reduceMax,
  reduceMean,
  reduceSum,
  reshape,
  roundEven,
  sqrt,
  sub,
  where,
  zerosLike
} from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import {
  continued,
  isDeviceTensor,
  isDeferred,
  type AnyTensor,
  type Device,
  type DeviceTensor,
  type Executable,
  type ProgramCall,
  type Deferred
} from '../runtime/device.ts'
import { Scope } from '../runtime/scope.ts'
import { gaussian, wordsPerRow } from './noise.ts'

/** How hidden states and gradients are protected when they leave a client. */
export interface Protection {
  /** Greatest L2 norm of a row. null leaves rows as they are, and allows no noise. */
  readonly clip: number | null
  /** Expected norm of a row's noise relative to the clip: sigma = noise · clip / sqrt(hidden) for each coordinate. */
  readonly noise: number
}

export interface Release {
  /** The protected rows [rows, hidden], rounded for the wire; with int8 followed by their scales [rows]. */
  readonly tensors: Tensor[]
  /** The share of the rows that the clip shortened, 0 to 1. */
  readonly clippedFraction: number
}

/** The randomness of one release: uint32 words and the noise's standard deviation on each coordinate. Empty where there is no noise. */
export type NoiseDraw = Readonly<Record<'words' | 'deviation', AnyTensor>> | Readonly<Record<string, never>>

/** A release whose rows are still to be computed. */
export interface DeferredRelease {
  /** The calls that compute the rows and protect them. The caller runs them as one sequence. */
  readonly calls: readonly ProgramCall[]
  /** Makes the release from the results of that sequence. */
  readonly released: (results: Readonly<Record<string, AnyTensor>>) => Release
}

/** The largest float16. Larger values are rounded to it rather than to infinity. */
const MAX_FLOAT16 = 65_504

/** Rows of norm 0 are divided by this. */
const LEAST_NORM = 1e-30

/** Up to this many float16 values are converted by this thread, which takes less time than starting a program. */
const FEW_VALUES = 2 ** 13

/** The number of steps of an int8 row on either side of zero. */
const INT8_STEPS = 127

/** Computes the standard deviation of the noise on each coordinate. */
export function noiseDeviation ({ clip, noise }: Protection, hidden: number): number {
  return clip === null ? 0 : noise * clip / Math.sqrt(hidden)
}

/**
 * Protects hidden states and gradients that leave a party, and decodes those that arrive. It clips, adds noise and rounds; the wire then
 * seals. All tensors that cross go through this class: those of training, evaluation and generation, forward and backward.
 */
export class Boundary {
  readonly #device: Device
  readonly #hidden: number
  readonly #rounding: Encoding
  readonly #executables = new Map<string, Promise<Executable>>()

  constructor (device: Device, { hidden, rounding }: { hidden: number, rounding: Encoding }) {
    this.#device = device
    this.#hidden = hidden
    this.#rounding = rounding
  }

  /**
   * Protects and rounds float32 rows [count, hidden]. Noise is drawn afresh for every call, or is the keystream of the 32 bytes of
   * `key`, which must never serve other rows or another protection: the difference of the two releases would be without noise.
   */
  async protect (rows: AnyTensor | Deferred, protection: Protection, count = rowsIn(rows), key?: Uint8Array): Promise<Release> {
    using scope = new Scope(this.#device)
    const { calls, released } = await this.protecting(rows, protection, await this.drawNoise(scope, protection, count, key), count)
    return released(calls.length === 0 ? {} : await this.#device.runSequence(calls))
  }

  /** Draws the noise of one release of `count` rows, which may be before the rows are computed. The scope owns the tensors. */
  async drawNoise (scope: Scope, { clip: norm, noise }: Protection, count: number, key?: Uint8Array): Promise<NoiseDraw> {
    if (noise === 0) return {}
    if (norm === null) throw new RangeError('noise is relative to the clip, and there is none')
    // A keystream under a key that nobody learns. onnxruntime's own random operators are seeded, and unfit to hide anything.
    const shape = [count, wordsPerRow(this.#hidden)]
    const keystreams = key === undefined ? undefined : [{ key, elements: elementCount(shape) }]
    const words = scope.own(await this.#device.randomBits(shape, keystreams))
    return { words, deviation: float32([], [noiseDeviation({ clip: norm, noise }, this.#hidden)]) }
  }

  /** Prepares a release of `count` rows, with noise that was drawn for it under the same protection. Its calls may run once only. */
  async protecting (
    rows: AnyTensor | Deferred,
    { clip: norm, noise }: Protection,
    draw: NoiseDraw,
    count?: number
  ): Promise<DeferredRelease> {
    if (norm === null) return await this.#encoding(rows, count)
    const name = noise === 0 ? 'clip' : 'clip-noise'
    const executable = await this.#executable(name, () => releaseProgram(name, this.#hidden, this.#rounding, noise !== 0))
    const { calls, input } = continued(rows)
    return {
      calls: [...calls, { executable, inputs: { rows: input, clip: float32([], [norm]), ...draw } }],
      released: (results) => ({ tensors: encodedIn(results), clippedFraction: (results.clipped as Tensor).data[0] as number })
    }
  }

  /**
   * Takes a gradient [rows, hidden] of released rows back through their clip, to that of the rows [rows, hidden] as they were: for a row h
   * of norm n above the clip C, with u = h / n, it is (C / n) (g - u (u · g)); for the others g. Noise and rounding count as the identity.
   * The caller frees the result and both arguments. Throws RangeError where nothing is clipped.
   */
  async clipBackward (rows: DeviceTensor, gradient: DeviceTensor, { clip: norm }: Protection): Promise<DeviceTensor> {
    if (norm === null) throw new RangeError('the rows were not clipped')
    const executable = await this.#executable('clip-backward', () => clipBackwardProgram(this.#hidden))
    const inputs = { rows, gradient, clip: float32([], [norm]) }
    return (await this.#device.runSequence([{ executable, inputs }], { keep: 'all' })).rowsGradient as DeviceTensor
  }

  /** Rounds float32 rows [count, hidden] for the wire without protecting them, as a server does. */
  async encode (rows: AnyTensor | Deferred, count?: number): Promise<Tensor[]> {
    const { calls, released } = await this.#encoding(rows, count)
    return released(calls.length === 0 ? {} : await this.#device.runSequence(calls)).tensors
  }

  /** Decodes rows that came over the wire, and were checked, to float32 [rows, hidden] on the device. The caller frees the result. */
  async decode (tensors: readonly Tensor[]): Promise<DeviceTensor> {
    const rows = await this.decoding(tensors)
    if (!isDeferred(rows)) return isDeviceTensor(rows) ? rows : await this.#device.upload(rows)
    return (await this.#device.runSequence(rows.calls, { keep: 'all' }))[rows.output] as DeviceTensor
  }

  /** Prepares the decoding of rows that came over the wire, as the beginning of a sequence of calls. */
  async decoding ([values, scales]: readonly Tensor[]): Promise<AnyTensor | Deferred> {
    if (values === undefined) throw new RangeError('there are no rows to decode')
    if (this.#rounding === 'fp32') return values
    if (this.#convertsHere(values.shape[0])) return float32(values.shape, fromFloat16(values.data as Uint16Array))
    const executable = await this.#executable('decode', () => decodeProgram(this.#hidden, this.#rounding))
    return { calls: [{ executable, inputs: { values, ...(scales === undefined ? {} : { scales }) } }], output: 'rows' }
  }

  async #encoding (rows: AnyTensor | Deferred, count = isDeferred(rows) ? undefined : rows.shape[0]): Promise<DeferredRelease> {
    const released = (tensors: readonly Tensor[]): Release => ({ tensors: [...tensors], clippedFraction: 0 })
    const { calls, input } = continued(rows)
    const convertsHere = this.#convertsHere(count)
    if (this.#rounding !== 'fp32' && !convertsHere) {
      const executable = await this.#executable('encode', () => encodeProgram(this.#hidden, this.#rounding))
      return { calls: [...calls, { executable, inputs: { rows: input } }], released: (results) => released(encodedIn(results)) }
    }
    const rounded = (values: Tensor): Release => released([convertsHere ? halved(values) : values])
    if (isDeferred(rows)) return { calls, released: (results) => rounded(results[rows.output] as Tensor) }
    const values = isDeviceTensor(rows) ? await this.#device.download(rows) : rows
    return { calls, released: () => rounded(values) }
  }

  /** Says whether this many rows are converted to and from float16 without a program. */
  #convertsHere (rows = Infinity): boolean {
    return this.#rounding === 'fp16' && rows * this.#hidden <= FEW_VALUES
  }

  async #executable (name: string, build: () => Program): Promise<Executable> {
    const known = this.#executables.get(name) ?? this.#device.compile(build())
    this.#executables.set(name, known)
    return await known
  }
}

/** Takes the tensors of a release from the results of a program that rounds. */
function encodedIn ({ values, scales }: Readonly<Record<string, AnyTensor>>): Tensor[] {
  return [values, scales].filter((part) => part !== undefined) as Tensor[]
}

function rowsIn (rows: AnyTensor | Deferred): number {
  if (isDeferred(rows)) throw new RangeError('rows that are not computed yet have to be counted')
  return rows.shape[0] as number
}

function releaseProgram (name: string, hidden: number, rounding: Encoding, noisy: boolean): Program {
  const graph = new Graph()
  const { rows, longer, scale } = clipping(graph, hidden)
  const clipped = mul(rows, scale)
  graph.output('clipped', reduceMean(cast(longer, 'float32')))
  emitRounded(graph, rounding, noisy ? add(clipped, noise(graph, hidden)) : clipped)
  return program(`boundary-${name}-${rounding}`, graph)
}

function clipBackwardProgram (hidden: number): Program {
  const graph = new Graph()
  const { rows, norms, longer, scale } = clipping(graph, hidden)
  const gradient = graph.input('gradient', 'float32', ['rows', hidden])
  const direction = div(rows, norms)
  const radial = mul(direction, reduceSum(mul(direction, gradient), [1], true))
  graph.output('rowsGradient', mul(sub(gradient, mul(radial, cast(longer, 'float32'))), scale))
  return program('boundary-clip-backward', graph)
}

/**
 * Declares the inputs `rows` [rows, hidden] and `clip` []. Finds the rows that are longer than the clip, and what each row is multiplied by
 * [rows, 1].
 */
function clipping (graph: Graph, hidden: number): Record<'rows' | 'norms' | 'longer' | 'scale', Value> {
  const rows = graph.input('rows', 'float32', ['rows', hidden])
  const most = graph.input('clip', 'float32', [])
  const norms = maximum(sqrt(reduceSum(mul(rows, rows), [1], true)), LEAST_NORM)
  const longer = greater(norms, most)
  return { rows, norms, longer, scale: where(longer, div(most, norms), add(zerosLike(norms), 1)) }
}

function noise (graph: Graph, hidden: number): Value {
  const words = graph.input('words', 'uint32', ['rows', wordsPerRow(hidden)])
  return mul(gaussian(words, hidden), graph.input('deviation', 'float32', []))
}

function encodeProgram (hidden: number, rounding: Encoding): Program {
  const graph = new Graph()
  emitRounded(graph, rounding, graph.input('rows', 'float32', ['rows', hidden]))
  return program(`boundary-encode-${rounding}`, graph)
}

function emitRounded (graph: Graph, rounding: Encoding, rows: Value): void {
  if (rounding === 'fp32') return graph.output('values', rows)
  if (rounding === 'fp16') return graph.output('values', cast(clip(rows, -MAX_FLOAT16, MAX_FLOAT16), 'float16'))
  const scales = mul(maximum(reduceMax(abs(rows), [1], true), 1e-30), 1 / INT8_STEPS)
  graph.output('values', cast(clip(roundEven(div(rows, scales)), -INT8_STEPS, INT8_STEPS), 'int8'))
  graph.output('scales', reshape(scales, ['rows']))
}

/** Rounds values to float16 as `emitRounded` does. */
function halved ({ shape, data }: Tensor): Tensor {
  return tensor(
    'float16',
    shape,
    toFloat16(Float32Array.from(data as Float32Array, (value) => Math.max(-MAX_FLOAT16, Math.min(MAX_FLOAT16, value))))
  )
}

function decodeProgram (hidden: number, rounding: Encoding): Program {
  const graph = new Graph()
  const values = cast(graph.input('values', rounding === 'int8' ? 'int8' : 'float16', ['rows', hidden]), 'float32')
  graph.output('rows', rounding === 'int8' ? scaled(graph, values) : values)
  return program(`boundary-decode-${rounding}`, graph)
}

function scaled (graph: Graph, values: Value): Value {
  return mul(values, reshape(graph.input('scales', 'float32', ['rows']), ['rows', 1]))
}
