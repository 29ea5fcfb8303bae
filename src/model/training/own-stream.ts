import { float32, int32, type Tensor } from '../../tensor.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { add, gatherRows, mul, reduceSum } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, Device, DeviceTensor } from '../runtime/device.ts'
import type { OwnTokens } from '../text/own-tokens.ts'

/** What the gate of withheld tokens is before it is trained: half of what the middle adds at the last token that was sent. */
const INITIAL_GATE = 0.5

/** Returns the gate [hidden] as training starts. */
export function initialGate (hidden: number): Tensor {
  return float32([hidden], new Float32Array(hidden).fill(INITIAL_GATE))
}

/** Where the rows of a client's own stream take from what the middle adds to the rows that were sent. */
export interface OwnLayout {
  /** int32 [own rows]: the row that was sent, or the last one before; 0 where there is none. */
  readonly rows: Tensor
  /** float32 [own rows, 1]: 1 where the row itself was sent. */
  readonly direct: Tensor
  /** float32 [own rows, 1]: 1 where the row is withheld and one was sent before. */
  readonly later: Tensor
}

/** Returns the layout of a batch's own rows. */
export function ownLayout ({ sentRows, isSent }: Pick<OwnTokens, 'sentRows' | 'isSent'>): OwnLayout {
  const count = sentRows.length
  return {
    rows: int32([count], Int32Array.from(sentRows, (row) => Math.max(row, 0))),
    direct: float32([count, 1], Float32Array.from(sentRows, (row, i) => row >= 0 && isSent[i] === 1 ? 1 : 0)),
    later: float32([count, 1], Float32Array.from(sentRows, (row, i) => row >= 0 && isSent[i] !== 1 ? 1 : 0))
  }
}

/**
 * Computes what the top begins with: the client's own hidden states h [own rows, hidden], with what the middle adds, delta [sent rows,
 * hidden], put onto them. y = h + delta where a row was sent, and y = h + gate · delta of the last row that was sent where it was not.
 * `gate` is [hidden]. The caller keeps the arguments, and frees the result.
 */
export async function joinOwnStream (
  device: Device,
  own: AnyTensor,
  delta: AnyTensor,
  gate: AnyTensor,
  layout: OwnLayout
): Promise<DeviceTensor> {
  const hidden = own.shape[1]!
  const executable = await compiled(device, `own-stream.join ${hidden}`, () => joinProgram(hidden))
  const { whole } = await executable.run({ own, delta, gate, ...layout }, { keep: 'all' })
  return whole as DeviceTensor
}

/** Computes the gradient [hidden] of the gate from that of what `joinOwnStream` returned, [own rows, hidden]. The caller frees it. */
export async function gateGradient (
  device: Device,
  delta: AnyTensor,
  gradient: AnyTensor,
  { rows, later }: OwnLayout
): Promise<DeviceTensor> {
  const hidden = gradient.shape[1]!
  const executable = await compiled(device, `own-stream.gate ${hidden}`, () => gateProgram(hidden))
  const results = await executable.run({ delta, gradient, rows, later }, { keep: 'all' })
  return results.gateGradient as DeviceTensor
}

/** Multiplies tensors by a number, and frees them. The caller frees the results. */
export async function scaled<Name> (
  device: Device,
  tensors: ReadonlyMap<Name, DeviceTensor>,
  factor: number
): Promise<Map<Name, DeviceTensor>> {
  if (factor === 1) return new Map(tensors)
  const executable = await compiled(device, 'scale', () => {
    const graph = new Graph()
    graph.output('scaled', mul(graph.input('x', 'float32', undefined), graph.input('factor', 'float32', [])))
    return program('scale', graph)
  })
  const results = new Map<Name, DeviceTensor>()
  try {
    for (const [name, x] of tensors) {
      const { scaled } = await executable.run({ x, factor: float32([], [factor]) }, { keep: 'all' })
      results.set(name, scaled as DeviceTensor)
    }
    return results
  } catch (error) {
    device.free(...results.values())
    throw error
  } finally {
    device.free(...tensors.values())
  }
}

function joinProgram (hidden: number): Program {
  const graph = new Graph()
  const one = (name: string): Value => graph.input(name, 'float32', ['own', 1])
  const taken = takenRows(graph, hidden)
  const weight = add(one('direct'), mul(one('later'), graph.input('gate', 'float32', [hidden])))
  graph.output('whole', add(graph.input('own', 'float32', ['own', hidden]), mul(taken, weight)))
  return program('own-stream-join', graph)
}

function gateProgram (hidden: number): Program {
  const graph = new Graph()
  const taken = mul(takenRows(graph, hidden), graph.input('later', 'float32', ['own', 1]))
  graph.output('gateGradient', reduceSum(mul(taken, graph.input('gradient', 'float32', ['own', hidden])), [0]))
  return program('own-stream-gate', graph)
}

function takenRows (graph: Graph, hidden: number): Value {
  return gatherRows(graph.input('delta', 'float32', ['sent', hidden]), graph.input('rows', 'int32', ['own']))
}
