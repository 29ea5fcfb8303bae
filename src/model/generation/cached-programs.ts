import { BlockBuilder, type Attention } from '../families/builder.ts'
import { kindOf, type Model } from '../families/family.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { concat, groupQueryAttention, reshape, split, transpose } from '../graph/operators/index.ts'
import { program, programOf, section, type Program } from '../graph/program.ts'
import { causalMask, contextMask, maskedAttention, rotate } from '../training/attention.ts'
import { adapterInputs } from '../training/block-programs.ts'
import { isQuantized, weightProduct } from '../training/weight-format.ts'
import type { ModelWeights } from '../training/weights.ts'

/**
 * One block over the rows of so many sequences, each a prompt that is read in both directions or not, the same for all blocks of a kind:
 * programs of whole spans would save a few messages to the device, and cost seconds to compile for each span and number of sequences that meet.
 */
export function cachedBlockProgram (weights: ModelWeights, layer: number, prompts: readonly boolean[]): Program {
  return program(`cached-block-${prompts.length}`, cachedBlock(weights, layer, prompts).graph)
}

/**
 * The same block in three programs, so that those with weights, which can be fixed in them, are the same for any number of sequences.
 * Each takes what it needs of the block's inputs and of what the programs before it give.
 */
export interface CachedBlockStages {
  /** From `hidden` to what the attention takes: `query`, `key` and `value`. */
  readonly before: () => Program
  /** To `attended` and the present caches. Of all weights it needs the rotary tables alone. */
  readonly attention: () => Program
  /** From `hidden` and `attended` to `output`. */
  readonly after: () => Program
}

export function cachedBlockStages (weights: ModelWeights, layer: number, prompts: readonly boolean[]): CachedBlockStages {
  const made = (): CachedBlock => cachedBlock(weights, layer, prompts)
  return {
    before () {
      const { graph, query, key, value } = made()
      return programOf('cached-block-before', section(graph, new Map(Object.entries({ query, key, value }))))
    },
    attention () {
      const { graph, query, key, value, attended } = made()
      const outputs = new Map([...graph.outputs].filter(([name]) => name !== 'output').concat([['attended', attended]]))
      return programOf(`cached-attention-${prompts.length}`, section(graph, outputs, new Map([[query, 'query'], [key, 'key'], [value, 'value']])))
    },
    after () {
      const { graph, output, attended } = made()
      return programOf('cached-block-after', section(graph, new Map([['output', output]]), new Map([[attended, 'attended']])))
    }
  }
}

interface CachedBlock {
  readonly graph: Graph
  /** What the attention takes, and what it gives. */
  readonly query: Value
  readonly key: Value
  readonly value: Value
  readonly attended: Value
  readonly output: Value
}

function cachedBlock (weights: ModelWeights, layer: number, prompts: readonly boolean[]): CachedBlock {
  const { model } = weights
  const format = weights.blockFormat(layer)
  const graph = new Graph()
  const hidden = graph.input('hidden', 'float32', ['rows', model.hiddenSize])
  const adapter = adapterInputs(graph, model, weights.training(layer).adapters, false)
  const attend = cachedAttention(graph, model, kindOf(model, layer).window, prompts)
  let seen: Pick<CachedBlock, 'query' | 'key' | 'value' | 'attended'> | undefined
  const attention: Attention = (query, key, value) => (seen = { query, key, value, attended: attend(query, key, value) }).attended
  const quantized = weights.fixes(format) ? 'int8' : 'float32'
  const builder = new BlockBuilder({ graph, model, attention, product: (x, weight) => weightProduct(x, weight, format, isQuantized(format) ? quantized : weights.rowType), adapter })
  const output = model.block(builder, hidden)
  graph.output('output', output)
  return { graph, output, ...seen! } // every block attends
}

/**
 * Attention of each sequence's rows over its own cache and themselves. It is causal: rows that see their whole context are computed
 * beside it, and the cached attention of their run only fills the cache.
 */
function cachedAttention (graph: Graph, model: Model, window: number | null, prompts: readonly boolean[]): Attention {
  const { heads, kvHeads, headSize } = model
  const sequences = prompts.length
  const rows = Array.from({ length: sequences }, (_, i) => sequences === 1 ? 'rows' : `rows.${i}`)
  const pieces = (x: Value): Value[] => {
    const parts = sequences === 1 ? [x] : split(x, rows, 0, graph.input('counts', 'int64', [sequences]))
    return parts.map((part, i) => reshape(part, [1, rows[i] as string, x.shape[1] as number]))
  }
  return (q, k, v) => {
    const [queries, keys, values] = [rotate(graph, model, q, heads), rotate(graph, model, k, kvHeads), v].map(pieces) as [Value[], Value[], Value[]]
    const attended = queries.map((query, i) => {
      const past = (name: string): Value => graph.input(`${name}.${i}`, 'float32', [1, kvHeads, `capacity.${i}`, headSize])
      const { output, presentKey, presentValue } = groupQueryAttention({
        query,
        key: keys[i] as Value,
        value: values[i] as Value,
        pastKey: past('pastKey'),
        pastValue: past('pastValue'),
        seqlensK: graph.input(`last.${i}`, 'int32', [1]),
        totalLength: graph.input(`total.${i}`, 'int32', [])
      }, { heads, kvHeads, ...(window === null ? {} : { localWindow: window }) })
      graph.output(`presentKey.${i}`, presentKey)
      graph.output(`presentValue.${i}`, presentValue)
      const seen = prompts[i] === true ? contextAttention(graph, model, [query, keys[i] as Value, values[i] as Value], window, graph.input(`context.${i}`, 'int64', [1])) : output
      return reshape(seen, [rows[i] as string, heads * headSize])
    })
    return concat(attended, 0, 'rows')
  }
}

/** Attention of a whole sequence of turned rows, q [1, rows, heads * headSize] and k and v likewise, that all see its context of `length` [1] rows. */
function contextAttention (graph: Graph, model: Model, [q, k, v]: readonly [Value, Value, Value], window: number | null, length: Value): Value {
  const { heads, kvHeads, headSize } = model
  const rows = q.shape[1]!
  const queries = transpose(reshape(q, [1, rows, kvHeads, heads / kvHeads, headSize]), [0, 2, 3, 1, 4])
  const apart = (x: Value): Value => transpose(reshape(x, [1, rows, kvHeads, headSize]), [0, 2, 1, 3])
  const mask = contextMask(graph, rows, length, causalMask(graph, rows, window))
  return maskedAttention(model, reshape(queries, [1, kvHeads, `group*${rows}`, headSize]), apart(k), apart(v), mask)
}
