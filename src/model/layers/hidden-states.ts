import { int32, tensor, type Tensor } from '../../tensor.ts'
import type { Model } from '../families/family.ts'
import { contextFault, positionPairs, type PromptContext } from '../families/prompts.ts'
import { Graph } from '../graph/graph.ts'
import { add, concat, gatherRows } from '../graph/operators/index.ts'
import { program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { AnyTensor, Device, DeviceTensor } from '../runtime/device.ts'

/** Sequences of rows that lie one after another without padding. */
export interface Sequences {
  readonly lengths: readonly number[]
  /** The context of each sequence, in a model that reads prompts in both directions; left out or empty for other models. */
  readonly contexts?: readonly PromptContext[] | undefined
}

/** Hidden states of several sequences. */
export interface HiddenStates extends Sequences {
  /** float32 [sum of lengths, hidden]. */
  readonly hidden: AnyTensor
}

/** Describes the sequences of rows of these token ids, one array a sequence. Throws PromptError. */
export function sequencesOf ({ prompts }: Model, ids: ReadonlyArray<readonly number[]>): Sequences {
  const lengths = ids.map((sequence) => sequence.length)
  return prompts === undefined ? { lengths } : { lengths, contexts: ids.map((sequence) => prompts.context(sequence, 'read')) }
}

/** Says what is wrong with the contexts of sequences, which only models that read prompts in both directions have; undefined if nothing. */
export function contextsFault ({ prompts }: Model, { lengths, contexts = [] }: Sequences): string | undefined {
  const expected = prompts === undefined ? 0 : lengths.length
  if (contexts.length !== expected) return `${contexts.length} contexts came where the model has ${expected}`
  for (const [i, context] of contexts.entries()) {
    const fault = contextFault(context, 0, lengths[i]!)
    if (fault !== undefined) return fault
  }
  return undefined
}

/** Consecutive sequences `[first, end)` of a batch, and their rows `[first, end)`. */
export interface SequenceGroup {
  readonly sequences: readonly [first: number, end: number]
  readonly rows: readonly [first: number, end: number]
}

/** Places of a padded batch that are never too many. */
const FEW_PLACES = 4096

/**
 * Splits a batch, in order, into groups of sequences that are padded to at most twice their rows, and have at most `maxRows` of them; a
 * longer sequence is alone. Attention pads a run's sequences to the longest of them: a sequence of 4,096 rows among a thousand short ones
 * would take a thousand times the memory that it takes alone.
 */
export function evenGroups (lengths: readonly number[], maxRows = Infinity): SequenceGroup[] {
  const groups: SequenceGroup[] = []
  let [sequence, row, most] = [0, 0, 0]
  for (let i = 0, rows = 0; i < lengths.length; i++) {
    const places = (i + 1 - sequence) * Math.max(most, lengths[i]!)
    const grown = rows + lengths[i]! - row
    if (i > sequence && (grown > maxRows || places > Math.max(FEW_PLACES, 2 * grown))) {
      groups.push({ sequences: [sequence, i], rows: [row, rows] })
      ;[sequence, row, most] = [i, rows, 0]
    }
    most = Math.max(most, lengths[i]!)
    rows += lengths[i]!
    if (i === lengths.length - 1) groups.push({ sequences: [sequence, lengths.length], rows: [row, rows] })
  }
  return groups
}

/** Finds the greatest of these lengths, which may be more than a call takes arguments; 0 where there are none. */
export function longest (lengths: readonly number[]): number {
  return lengths.reduce((most, length) => Math.max(most, length), 0)
}

/** Joins packed rows [rows_i, width], in order. The caller keeps the parts, and frees the result. */
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

/** Copies rows `[start, end)` of [rows, width]. The caller frees the copy. */
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

/** Adds two tensors of one shape. The caller frees the result. */
export async function addTensors (device: Device, a: AnyTensor, b: AnyTensor): Promise<DeviceTensor> {
  const executable = await compiled(device, 'add', () => {
    const graph = new Graph()
    graph.output('sum', add(graph.input('a', 'float32', undefined), graph.input('b', 'float32', undefined)))
    return program('add', graph)
  })
  const { sum } = await executable.run({ a, b }, { keep: 'all' })
  return sum as DeviceTensor
}

/** The places of packed rows in a padded batch, which a program needs to pad rows for attention and to pack them again. */
export interface RowLayout {
  /** int64 [rows, positions]: each row's position in its sequence, or its positions. */
  readonly positions: Tensor
  /** int32 [batch, seq]: the row in each place of the padded batch, -1 where there is none. */
  readonly slots: Tensor
  /** int32 [rows]: each row's place in the padded batch. */
  readonly places: Tensor
  /** int64 [batch]: the length of each sequence's context, where there are contexts. */
  readonly contexts?: Tensor
}

export function rowLayout ({ lengths, contexts = [] }: Sequences): RowLayout {
  const rows = lengths.reduce((sum, length) => sum + length, 0)
  const width = longest(lengths)
  const slots = new Int32Array(lengths.length * width).fill(-1)
  const places = new Int32Array(rows)
  let row = 0
  for (const [sequence, length] of lengths.entries()) {
    for (let position = 0; position < length; position++, row++) {
      const place = sequence * width + position
      slots[place] = row
      places[row] = place
    }
  }
  return {
    positions: positionsOf(lengths.map((count, i) => ({ from: 0, count, context: contexts[i] }))),
    slots: int32([lengths.length, width], slots),
    places: int32([rows], places),
    ...(contexts.length === 0 ? {} : { contexts: int64([contexts.length], contexts.map(({ length }) => length)) })
  }
}

/** Lists the positions, int64 [rows, positions], of rows [from, from + count) of each sequence. */
export function positionsOf (
  sequences: ReadonlyArray<{ readonly from: number, readonly count: number, readonly context?: PromptContext | undefined }>
): Tensor {
  const rows = sequences.reduce((sum, { count }) => sum + count, 0)
  const values = sequences.flatMap(({ from, count, context }) =>
    context === undefined ? Array.from({ length: count }, (_, i) => from + i) : positionPairs(context, from, count)
  )
  return int64([rows, values.length / rows], values)
}

function int64 (shape: readonly number[], values: readonly number[]): Tensor {
  return tensor('int64', shape, BigInt64Array.from(values, BigInt))
}
