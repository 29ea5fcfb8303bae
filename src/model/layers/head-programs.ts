import { normalized } from '../families/builder.ts'
import type { Model } from '../families/family.ts'
import { embeddingWeight, headWeight } from '../families/weights.ts'
import { differentiate } from '../graph/differentiate.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { argMax, cast, crossEntropy, reduceSum, takeRows } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import { weightProduct, weightRows, type WeightFormat } from './weight-format.ts'

interface HeadGraph {
  readonly graph: Graph
  readonly hidden: Value
  /** [taken, vocabulary]. */
  readonly logits: Value
}

/**
 * Returns the final norm and the head on some of the rows: inputs `hidden` [rows, hidden], `taken` int32 [taken], row numbers without
 * repetition, `inverse` int32 [rows], where each row went or -1, and the weights under their names in the checkpoint, as `format` keeps
 * them.
 */
function headGraph (model: Model, format: WeightFormat, activations?: 'float32' | 'int8'): HeadGraph {
  const graph = new Graph()
  const hidden = graph.input('hidden', 'float32', ['rows', model.hiddenSize])
  const rows = takeRows(hidden, graph.input('taken', 'int32', ['taken']), graph.input('inverse', 'int32', ['rows']), {
    gapsInIndices: false
  })
  const output = normalized(rows, model.finalNorm, model.normEpsilon)
  return { graph, hidden, logits: weightProduct(output, headWeight(model), format, activations) }
}

/** Output `logits` [taken, vocabulary]. */
export function logitsProgram (model: Model, format: WeightFormat, activations?: 'float32' | 'int8'): Program {
  const { graph, logits } = headGraph(model, format, activations)
  graph.output('logits', logits)
  return program('head', graph)
}

/** Takes `targets` int32 [taken] besides; outputs `losses` [taken], the cross-entropy of each row taken, and `loss`, their sum. */
export function lossProgram (model: Model, format: WeightFormat): Program {
  const { graph, losses, loss } = lossGraph(model, format)
  graph.output('losses', losses)
  graph.output('loss', loss)
  return program('head.loss', graph)
}

/** As lossProgram, with the gradients `hidden.gradient` [rows, hidden] and, of the weights named, `${name}.gradient`. */
export function lossGradientProgram (model: Model, format: WeightFormat, parameters: readonly string[]): Program {
  const { graph, hidden, loss } = lossGraph(model, format)
  graph.output('loss', loss)
  const wrt = [hidden, ...parameters.map((name) => graph.inputs.get(name)!)]
  const gradients = differentiate(graph, [{ value: loss, gradient: graph.scalar(1) }], wrt)
  for (const [i, name] of ['hidden', ...parameters].entries()) graph.output(`${name}.gradient`, gradients[i]!)
  return program('head.gradient', graph)
}

function lossGraph (model: Model, format: WeightFormat): HeadGraph & { losses: Value, loss: Value } {
  const head = headGraph(model, format)
  const losses = crossEntropy(head.logits, head.graph.input('targets', 'int32', ['taken']))
  return { ...head, losses, loss: reduceSum(losses) }
}

/** Input `ids` int32 [rows] and the embedding under its name in the checkpoint, as `format` keeps it; output `hidden` [rows, hidden]. */
export function embeddingProgram (model: Model, format: WeightFormat): Program {
  const graph = new Graph()
  graph.output('hidden', embed(tokenIds(graph), model, format))
  return program('embedding', graph)
}

/** Returns the embedding of the likeliest tokens: input `logits` [rows, vocabulary] in place of ids; output `ids` int32 [rows] besides. */
export function likeliestProgram (model: Model, format: WeightFormat): Program {
  const graph = new Graph()
  const ids = argMax(graph.input('logits', 'float32', ['rows', model.vocabularySize]))
  graph.output('ids', cast(ids, 'int32'))
  graph.output('hidden', embed(ids, model, format))
  return program('embedding.likeliest', graph)
}

/** Of a float32 embedding. Takes `hiddenGradient` [rows, hidden] besides; output `${embedding}.gradient` [vocabulary, hidden]. */
export function embeddingGradientProgram (model: Model): Program {
  const graph = new Graph()
  const hidden = embed(tokenIds(graph), model, 'fp32')
  const [gradient] = differentiate(graph, [{ value: hidden, gradient: graph.input('hiddenGradient', 'float32', hidden.shape) }], [
    graph.inputs.get(model.embedding)!
  ])
  graph.output(`${model.embedding}.gradient`, gradient!)
  return program('embedding.gradient', graph)
}

function tokenIds (graph: Graph): Value {
  return cast(graph.input('ids', 'int32', ['rows']), 'int64')
}

function embed (ids: Value, model: Model, format: WeightFormat): Value {
  return weightRows(ids, embeddingWeight(model), format)
}
