import { GraphBlockBuilder, type Attention } from '../families/builder.ts'
import { kindOf } from '../families/family.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { program, programOf, type Program } from '../graph/program.ts'
import { section } from '../graph/section.ts'
import { adapterInputs } from '../layers/block-programs.ts'
import { isQuantized, weightProduct } from '../layers/weight-format.ts'
import type { ModelWeights } from '../layers/weights.ts'
import { cachedAttention } from './cached-attention.ts'

/** The sequences of a run, which its programs depend on: two programs, at most, for each number of them. */
export interface RunKind {
  readonly sequences: number
  /** Whether there are prompts among them that are read in both directions. */
  readonly reads: boolean
}

/**
 * One block over the rows of several sequences, the same for all blocks of a kind: programs of whole spans would save a few messages to the
 * device, and cost seconds to compile for each span and number of sequences that meet.
 */
export function cachedBlockProgram (weights: ModelWeights, layer: number, run: RunKind): Program {
  return program(`cached-block-${run.sequences}`, cachedBlock(weights, layer, run).graph)
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

export function cachedBlockStages (weights: ModelWeights, layer: number, run: RunKind): CachedBlockStages {
  const made = (): CachedBlock => cachedBlock(weights, layer, run)
  return {
    before () {
      const { graph, query, key, value } = made()
      return programOf('cached-block-before', section(graph, new Map(Object.entries({ query, key, value }))))
    },
    attention () {
      const { graph, query, key, value, attended } = made()
      const outputs = new Map([...graph.outputs].filter(([name]) => name !== 'output').concat([['attended', attended]]))
      return programOf(
        `cached-attention-${run.sequences}`,
        section(graph, outputs, new Map([[query, 'query'], [key, 'key'], [value, 'value']]))
      )
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

function cachedBlock (weights: ModelWeights, layer: number, run: RunKind): CachedBlock {
  const { model } = weights
  const format = weights.blockFormat(layer)
  const graph = new Graph()
  const hidden = graph.input('hidden', 'float32', ['rows', model.hiddenSize])
  const adapter = adapterInputs(graph, model, weights.training(layer).adapters, false)
  const attend = cachedAttention(graph, model, { ...kindOf(model, layer), ...run })
  let seen: Pick<CachedBlock, 'query' | 'key' | 'value' | 'attended'> | undefined
  const attention: Attention = (query, key, value) => (seen = { query, key, value, attended: attend(query, key, value) }).attended
  const quantized = weights.fixes(format) ? 'int8' : 'float32'
  const builder = new GraphBlockBuilder({
    graph,
    model,
    attention,
    product: (x, weight) => weightProduct(x, weight, format, isQuantized(format) ? quantized : weights.rowType),
    adapter
  })
  const output = model.block(builder, hidden)
  graph.output('output', output)
  return { graph, output, ...seen! } // every block attends
}
