import type { Encoding } from '../../encoding.ts'
import { elementCount, float32, type Tensor } from '../../tensor.ts'
import { fromFloat16 } from '../float16.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { add, mul, sub } from '../graph/operators/index.ts'
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
import { clippedRows, gradientThroughClip } from './clipping.ts'
import { gaussian, wordsPerRow } from './noise.ts'
import { decodedRows, emitRounded, halved } from './rounding.ts'

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
  /** The rows [rows, hidden] as they were, which stay here; where `keepRows` asked for them. */
  readonly rows?: Tensor
}

export interface ReleaseOptions {
  /** The number of rows; needed where they are still to be computed. */
  readonly count?: number
  /** Whether a release of rows that are still to be computed has them as they were as well. */
  readonly keepRows?: boolean
}

export interface ProtectOptions extends ReleaseOptions {
  /**
   * 32 bytes whose keystream is the noise, which is drawn afresh without them. They must never serve other rows or another protection: the
   * difference of the two releases would be without noise.
   */
  readonly key?: Uint8Array
}

/** The randomness of one release: uint32 words and the noise's standard deviation on each coordinate. Empty where there is no noise. */
export type NoiseDraw = Readonly<Record<'words' | 'deviation', AnyTensor>> | Readonly<Record<string, never>>

/** A release whose rows are still to be computed. */
export interface DeferredRelease {
  /** The calls that compute the rows and protect them. The caller runs them as one sequence. */
  readonly calls: readonly ProgramCall[]
  /** Outputs of the sequence that have to come out besides those of its last call. */
  readonly also: readonly string[]
  /** Makes the release from the results of that sequence. */
  readonly released: (results: Readonly<Record<string, AnyTensor>>) => Release
}

/** Up to this many float16 values are converted by this thread, which takes less time than starting a program. */
const FEW_VALUES = 2 ** 13

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

  /** Protects and rounds float32 rows [count, hidden]. */
  async protect (rows: AnyTensor | Deferred, protection: Protection, { key, ...options }: ProtectOptions = {}): Promise<Release> {
    using scope = new Scope(this.#device)
    const count = options.count ?? rowsIn(rows)
    const { calls, also, released } = await this.protecting(rows, protection, await this.drawNoise(scope, protection, count, key), {
      ...options,
      count
    })
    return released(calls.length === 0 ? {} : await this.#device.runSequence(calls, { also }))
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

  /** Prepares a release of rows, with noise that was drawn for it under the same protection. Its calls may run once only. */
  async protecting (
    rows: AnyTensor | Deferred,
    { clip: norm, noise }: Protection,
    draw: NoiseDraw,
    { count, keepRows = false }: ReleaseOptions = {}
  ): Promise<DeferredRelease> {
    const kept = keepRows && isDeferred(rows) ? rows.output : undefined
    const release = norm === null ? await this.#encoding(rows, count) : await this.#clipping(rows, norm, noise, draw)
    if (kept === undefined) return release
    return {
      calls: release.calls,
      also: [...release.also, kept],
      released: (results) => ({ ...release.released(results), rows: results[kept] as Tensor })
    }
  }

  async #clipping (rows: AnyTensor | Deferred, norm: number, noise: number, draw: NoiseDraw): Promise<DeferredRelease> {
    const name = noise === 0 ? 'clip' : 'clip-noise'
    const executable = await this.#executable(name, () => releaseProgram(name, this.#hidden, this.#rounding, noise !== 0))
    const { calls, input } = continued(rows)
    return {
      calls: [...calls, { executable, inputs: { rows: input, clip: float32([], [norm]), ...draw } }],
      also: [],
      released: (results) => ({ tensors: encodedIn(results), clippedFraction: (results.clipped as Tensor).data[0] as number })
    }
  }

  /**
   * Puts what came back from the middle, f [rows, hidden], onto the rows h [rows, hidden] as they were before they left as r: h + (f - r).
   * Noise, clip and rounding then reach what the middle adds, and not the residual stream. The same serves gradients on the way down, where
   * h is the gradient that went up. Where r is h to the bit, the result is f to the bit. `released` is r as it left.
   */
  async keepStream (rows: AnyTensor, released: readonly Tensor[], back: AnyTensor | Deferred): Promise<Deferred> {
    const [values, scales] = released
    if (values === undefined) throw new RangeError('nothing was released')
    const executable = await this.#executable('keep-stream', () => keepStreamProgram(this.#hidden, this.#rounding))
    const { calls, input } = continued(back)
    const inputs = { rows, values, ...(scales === undefined ? {} : { scales }), back: input }
    return { calls: [...calls, { executable, inputs }], output: 'whole' }
  }

  /**
   * Prepares what the middle added to released rows r: f - r [rows, hidden], from what came back, f [rows, hidden]. `released` is r as it
   * left.
   */
  async adding ([values, scales]: readonly Tensor[], back: AnyTensor | Deferred): Promise<Deferred> {
    if (values === undefined) throw new RangeError('nothing was released')
    const executable = await this.#executable('added', () => addedProgram(this.#hidden, this.#rounding))
    const { calls, input } = continued(back)
    const inputs = { values, ...(scales === undefined ? {} : { scales }), back: input }
    return { calls: [...calls, { executable, inputs }], output: 'added' }
  }

  /**
   * Takes a gradient [rows, hidden] of released rows back through their clip, to that of the rows [rows, hidden] as they were: for a row h
   * of norm n above the clip C, with u = h / n, it is (C / n) (g - u (u · g)); for the others g. Noise and rounding count as the identity.
   * Where the residual stream stays here, `kept` is its gradient [rows, hidden], which is a part of `gradient` that passes no clip. The
   * caller frees the result and the arguments. Throws RangeError where nothing is clipped.
   */
  async clipBackward (
    rows: DeviceTensor,
    gradient: AnyTensor | Deferred,
    { clip: norm }: Protection,
    kept?: DeviceTensor
  ): Promise<DeviceTensor> {
    if (norm === null) throw new RangeError('the rows were not clipped')
    const executable = kept === undefined
      ? await this.#executable('clip-backward', () => clipBackwardProgram(this.#hidden))
      : await this.#executable('kept-backward', () => keptBackwardProgram(this.#hidden))
    const { calls, input } = continued(gradient)
    const inputs = { rows, gradient: input, clip: float32([], [norm]), ...(kept === undefined ? {} : { kept }) }
    return (await this.#device.runSequence([...calls, { executable, inputs }], { keep: 'all' })).rowsGradient as DeviceTensor
  }

  /** Rounds float32 rows [count, hidden] for the wire without protecting them, as a server does. */
  async encode (rows: AnyTensor | Deferred, count?: number): Promise<Tensor[]> {
    const { calls, released } = await this.#encoding(rows, count)
    return released(calls.length === 0 ? {} : await this.#device.runSequence(calls)).tensors
  }

  /** Decodes rows that came over the wire, and were checked, to float32 [rows, hidden] on the device. The caller frees the result. */
  async decode (tensors: readonly Tensor[]): Promise<DeviceTensor> {
    return await this.computed(await this.decoding(tensors))
  }

  /** Computes rows that are still to be computed, and uploads those in host memory. The caller frees the result. */
  async computed (rows: AnyTensor | Deferred): Promise<DeviceTensor> {
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
      return { calls: [...calls, { executable, inputs: { rows: input } }], also: [], released: (results) => released(encodedIn(results)) }
    }
    const rounded = (values: Tensor): Release => released([convertsHere ? halved(values) : values])
    if (isDeferred(rows)) return { calls, also: [], released: (results) => rounded(results[rows.output] as Tensor) }
    const values = isDeviceTensor(rows) ? await this.#device.download(rows) : rows
    return { calls, also: [], released: () => rounded(values) }
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
  const { clipped, fraction } = clippedRows(graph, hidden)
  graph.output('clipped', fraction)
  emitRounded(graph, rounding, noisy ? add(clipped, noise(graph, hidden)) : clipped)
  return program(`boundary-${name}-${rounding}`, graph)
}

function noise (graph: Graph, hidden: number): Value {
  const words = graph.input('words', 'uint32', ['rows', wordsPerRow(hidden)])
  return mul(gaussian(words, hidden), graph.input('deviation', 'float32', []))
}

function clipBackwardProgram (hidden: number): Program {
  const graph = new Graph()
  graph.output('rowsGradient', gradientThroughClip(graph, hidden, graph.input('gradient', 'float32', ['rows', hidden])))
  return program('boundary-clip-backward', graph)
}

function keptBackwardProgram (hidden: number): Program {
  const graph = new Graph()
  const kept = graph.input('kept', 'float32', ['rows', hidden])
  const gradient = sub(graph.input('gradient', 'float32', ['rows', hidden]), kept)
  graph.output('rowsGradient', add(kept, gradientThroughClip(graph, hidden, gradient)))
  return program('boundary-kept-backward', graph)
}

function keepStreamProgram (hidden: number, rounding: Encoding): Program {
  const graph = new Graph()
  const kept = sub(graph.input('rows', 'float32', ['rows', hidden]), decodedRows(graph, rounding, hidden))
  graph.output('whole', add(graph.input('back', 'float32', ['rows', hidden]), kept))
  return program(`boundary-keep-stream-${rounding}`, graph)
}

function addedProgram (hidden: number, rounding: Encoding): Program {
  const graph = new Graph()
  graph.output('added', sub(graph.input('back', 'float32', ['rows', hidden]), decodedRows(graph, rounding, hidden)))
  return program(`boundary-added-${rounding}`, graph)
}

function encodeProgram (hidden: number, rounding: Encoding): Program {
  const graph = new Graph()
  emitRounded(graph, rounding, graph.input('rows', 'float32', ['rows', hidden]))
  return program(`boundary-encode-${rounding}`, graph)
}

function decodeProgram (hidden: number, rounding: Encoding): Program {
  const graph = new Graph()
  graph.output('rows', decodedRows(graph, rounding, hidden))
  return program(`boundary-decode-${rounding}`, graph)
}
