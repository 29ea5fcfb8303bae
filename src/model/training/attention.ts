import type { Attention } from '../families/builder.ts'
import { rotaryTables } from '../families/rotary.ts'
import type { Model } from '../families/family.ts'
import type { Graph, Value } from '../graph/graph.ts'
import { add, greaterOrEqual, matmul, mul, range, reshape, rotaryEmbedding, softmax, sub, takeRows, transpose, where } from '../graph/operators/index.ts'
import type { Device, DeviceTensor } from '../runtime/device.ts'

/** Turns q or k [rows, heads * headSize] by the graph's inputs `positions`, `cos` and `sin`. */
export function rotate (graph: Graph, model: Model, x: Value, heads: number): Value {
  const pairs = model.rotary.frequencies.length
  const [rows, width] = [x.shape[0]!, x.shape[1]!]
  const positions = graph.input('positions', 'int64', [1, 'rows'])
  const [cos, sin] = ['cos', 'sin'].map(name => graph.input(name, 'float32', ['positions', pairs]))
  const { size, interleaved } = model.rotary
  // A sequence a row: the operator refuses a sequence longer than the tables, and packed rows may be many more than that.
  const turned = rotaryEmbedding(reshape(x, [rows, 1, width]), reshape(positions, [rows, 1]), cos!, sin!, { heads, interleaved, ...(size === model.headSize ? {} : { rotaryDim: size }) })
  return reshape(turned, [rows, width])
}

/** The tables that `rotate` reads, on the device. */
export async function uploadRotary (device: Device, model: Model): Promise<{ cos: DeviceTensor, sin: DeviceTensor }> {
  const { cos, sin } = rotaryTables(model.rotary, model.maxPositions)
  return { cos: await device.upload(cos), sin: await device.upload(sin) }
}

/**
 * Causal attention that can be differentiated. Rows are padded at the end to [batch, seq] by the graph's inputs `slots` [batch, seq] and
 * `places` [rows]; no row sees what comes after it, so none sees padding. Query heads that share a key head are stacked along the
 * sequence, so that keys and values are never repeated. With a window, a query sees only that many keys, its own the last.
 */
export function paddedAttention (graph: Graph, model: Model, window: number | null): Attention {
  const { heads, kvHeads, headSize } = model
  const group = heads / kvHeads
  const places = graph.input('places', 'int32', ['rows'])
  const slots = reshape(graph.input('slots', 'int32', ['batch', 'seq']), ['slots'])

  const pad = (x: Value, shape: readonly number[], order: readonly number[]): Value =>
    transpose(reshape(takeRows(x, slots, places, { gapsInInverse: false }), ['batch', 'seq', ...shape]), order)

  return (q, k, v) => {
    const queries = graph.mark(reshape(pad(rotate(graph, model, q, heads), [kvHeads, group, headSize], [0, 2, 3, 1, 4]), ['batch', kvHeads, 'group*seq', headSize]))
    const keys = graph.mark(pad(rotate(graph, model, k, kvHeads), [kvHeads, headSize], [0, 2, 1, 3]))
    const values = graph.mark(pad(v, [kvHeads, headSize], [0, 2, 1, 3]))

    const scores = reshape(mul(matmul(queries, keys, { transposeB: true }), headSize ** -0.5), ['batch', kvHeads, group, 'seq', 'seq'])
    const weights = softmax(add(scores, causalMask(graph, window)))
    const mixed = matmul(reshape(weights, ['batch', kvHeads, 'group*seq', 'seq']), values)

    const sideBySide = transpose(reshape(mixed, ['batch', kvHeads, group, 'seq', headSize]), [0, 3, 1, 2, 4])
    return graph.mark(takeRows(reshape(sideBySide, ['slots', heads * headSize]), places, slots, { gapsInIndices: false }))
  }
}

/** [seq, seq]: 0 where a query sees a key, -infinity where the key comes after it or lies before its window. */
function causalMask (graph: Graph, window: number | null): Value {
  const at = range(graph, 'seq')
  const [query, key] = [reshape(at, ['seq', 1]), reshape(at, [1, 'seq'])]
  const [seen, unseen] = [graph.scalar(0), graph.scalar(-Infinity)]
  const causal = where(greaterOrEqual(query, key), seen, unseen)
  return window === null ? causal : where(greaterOrEqual(sub(query, key), graph.scalar(window, 'int64')), unseen, causal)
}
