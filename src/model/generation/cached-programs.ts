import { GraphBlockBuilder, type Attention } from '../families/builder.ts'
import { kindOf } from '../families/family.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { program, programOf, type Program } from '../graph/program.ts'
import { section } from '../graph/section.ts'
import { adapterInputs } from '../layers/block-programs.ts'
import { isQuantized, weightProduct } from '../layers/weight-format.ts'
import type { ModelWeights } from '../layers/weights.ts'
import { cachedAttention, type RunKind } from './cached-attention.ts'

/**
 * Builds the program of one block over the tokens of several sequences. All blocks of a kind share it: a program of a whole span would save
 * a few calls, and would take seconds to compile for each span and number of sequences.
 */
export function cachedBlockProgram (weights: ModelWeights, layer: number, run: RunKind): Program {
  return program(`cached-block-${run.sequences}`, cachedBlock(weights, layer, run).graph)
}

/**
 * One block in three programs, for weights that are fixed at compile time: the two programs with weights are the same for any number of
 * sequences. Each program takes its inputs from the block's inputs and from the outputs of the programs before it.
 */
export interface CachedBlockStages {
  /** Computes `query`, `key` and `value` from `hidden`. */
  readonly before: () => Program
  /** Computes `attended` and the present keys and values. Its only weights are the rotary tables. */
  readonly attention: () => Program
  /** Computes `output` from `hidden` and `attended`. */
  readonly after: () => Program
}

/** Builds the three programs of one block; see CachedBlockStages. */
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
  /** The inputs of the attention, and its output `attended`. */
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
