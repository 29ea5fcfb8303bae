import { int32, tensor, type Tensor } from '../../tensor.ts'
import { Graph } from '../graph/graph.ts'
import { add, concat, gatherRows } from '../graph/operators/index.ts'
import { program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, Device, DeviceTensor } from '../runtime/device.ts'

/** Hidden states of several sequences, one after another without padding. */
export interface Rows {
  /** float32 [sum of lengths, hidden]. */
  readonly hidden: AnyTensor
  readonly lengths: readonly number[]
}

/** Joins packed rows [rows_i, width], in order. The parts stay the caller's. */
export async function concatRows (device: Device, parts: readonly AnyTensor[]): Promise<DeviceTensor> {
  const executable = await compiled(device, `rows.concat ${parts.length} ${parts[0]!.shape[1]}`, () => {
    const graph = new Graph()
    const inputs = parts.map((part, i) => graph.input(`part.${i}`, 'float32', [`rows.${i}`, part.shape[1]!]))
    graph.output('rows', concat(inputs, 0, 'rows'))
    return program('concatRows', graph)
  })
  const { rows } = await executable.run(Object.fromEntries(parts.map((part, i) => [`part.${i}`, part])), { keep: 'all' })
  return rows as DeviceTensor
}

/** Rows `start` up to `end` of [rows, width]. */
export async function sliceRows (device: Device, rows: AnyTensor, start: number, end: number): Promise<DeviceTensor> {
  const executable = await compiled(device, `rows.slice ${rows.shape[1]}`, () => {
    const graph = new Graph()
    graph.output('taken', gatherRows(graph.input('rows', 'float32', ['rows', rows.shape[1]!]), graph.input('indices', 'int32', ['taken'])))
    return program('sliceRows', graph)
  })
  const indices = int32([end - start], Int32Array.from({ length: end - start }, (_, i) => start + i))
  const { taken } = await executable.run({ rows, indices }, { keep: 'all' })
  return taken as DeviceTensor
}

/** The sum of two tensors of one shape. */
export async function addTensors (device: Device, a: AnyTensor, b: AnyTensor): Promise<DeviceTensor> {
  const executable = await compiled(device, 'add', () => {
    const graph = new Graph()
    graph.output('sum', add(graph.input('a', 'float32', undefined), graph.input('b', 'float32', undefined)))
    return program('add', graph)
  })
  const { sum } = await executable.run({ a, b }, { keep: 'all' })
  return sum as DeviceTensor
}

/** Where packed rows stand: what a program needs to pad them for attention and to pack them again. */
export interface RowLayout {
  /** int64 [1, rows]: each row's position in its sequence. */
  readonly positions: Tensor
  /** int32 [batch, seq]: the row in each place of the padded batch, -1 where there is none. */
  readonly slots: Tensor
  /** int32 [rows]: each row's place in the padded batch. */
  readonly places: Tensor
}

export function rowLayout (lengths: readonly number[]): RowLayout {
  const rows = lengths.reduce((sum, length) => sum + length, 0)
  const longest = Math.max(...lengths)
  const positions = new BigInt64Array(rows)
  const slots = new Int32Array(lengths.length * longest).fill(-1)
  const places = new Int32Array(rows)
  let row = 0
  for (const [sequence, length] of lengths.entries()) {
    for (let position = 0; position < length; position++, row++) {
      const place = sequence * longest + position
      positions[row] = BigInt(position)
      slots[place] = row
      places[row] = place
    }
  }
  return { positions: tensor('int64', [1, rows], positions), slots: int32([lengths.length, longest], slots), places: int32([rows], places) }
}
