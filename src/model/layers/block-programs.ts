import { GraphBlockBuilder, type Adapter } from '../families/builder.ts'
import type { BlockKind, Model } from '../families/family.ts'
import { differentiate } from '../graph/differentiate.ts'
import { savePolicy, splitForwardBackward } from '../graph/forward-backward.ts'
import { Graph, type Value } from '../graph/graph.ts'
import { cast, less, mul, where } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import { paddedAttention } from './attention.ts'
import { adapterScaling, adapterTargets, type AdapterSettings } from './lora.ts'
import { parameterNames, type BlockTraining } from './trainable.ts'
import { weightProduct, type KeptFormat, type RowType } from './weight-format.ts'

/** Whether a forward pass keeps what its backward pass needs, or computes it again from the block's input. */
export type ResidualPolicy = 'saved' | 'recomputed'

/** What the programs of a block depend on. */
export interface BlockOptions {
  readonly model: Model
  readonly kind: BlockKind
  readonly training: BlockTraining
  readonly format: KeptFormat
  readonly rowType: RowType | undefined
}

/**
 * The programs of one block, the same for all blocks of its kind and training. Inputs: `hidden` [rows, hidden], `positions`, `slots`,
 * `places` (rowLayout), `cos`, `sin`, the weights and adapters by their names in the block, and `${module}.dropout` (uint32 [rows, in])
 * where adapters drop out.
 */
export interface BlockPrograms {
  /** Output `output` [rows, hidden]; without dropout. */
  readonly evaluate: Program
  /** Outputs `output` and the residuals. */
  readonly forward: Program
  /** Takes `outputGradient` and the residuals besides; outputs `inputGradient` and `${parameter}.gradient`. */
  readonly backward: Program
  /** The same without `inputGradient`, for a block before which nothing is trained. */
  readonly backwardToParameters: () => Program
  readonly residuals: readonly string[]
  /** Names of the trained inputs, in the block. */
  readonly parameters: readonly string[]
}

export function blockPrograms (options: BlockOptions, policy: ResidualPolicy): BlockPrograms {
  const parameters = parameterNames(options.model, options.training)
  const evaluation = blockGraph(options, false)
  evaluation.graph.output('output', evaluation.output)

  const { graph, hidden, output } = blockGraph(options, true)
  const outputGradient = graph.input('outputGradient', 'float32', hidden.shape)
  const [inputGradient, ...gradients] = differentiate(graph, [{ value: output, gradient: outputGradient }], [
    hidden,
    ...parameters.map((name) => graph.inputs.get(name)!)
  ])
  const backward = Object.fromEntries(parameters.map((name, i) => [`${name}.gradient`, gradients[i]!]))
  const parts = splitForwardBackward(graph, {
    name: 'block',
    forward: { output },
    backward: { inputGradient: inputGradient!, ...backward },
    save: savePolicy(graph, policy)
  })
  return {
    evaluate: program('block', evaluation.graph),
    forward: parts.forward,
    backward: parts.backward,
    backwardToParameters: () => parts.backwardOf(Object.keys(backward)),
    residuals: parts.residuals.map(({ name }) => name),
    parameters
  }
}

function blockGraph (
  { model, kind, training: { adapters }, format, rowType }: BlockOptions,
  isTraining: boolean
): { graph: Graph, hidden: Value, output: Value } {
  const graph = new Graph()
  const hidden = graph.input('hidden', 'float32', ['rows', model.hiddenSize])
  const adapter = adapterInputs(graph, model, adapters, isTraining)
  const builder = new GraphBlockBuilder({
    graph,
    model,
    attention: paddedAttention(graph, model, kind.window),
    product: (x, weight) => weightProduct(x, weight, format, rowType),
    adapter
  })
  return { graph, hidden, output: model.block(builder, hidden) }
}

/** Returns the adapters of a block, if it has any, as inputs of a graph, named with a prefix before the module. */
export function adapterInputs (
  graph: Graph,
  model: Model,
  settings: AdapterSettings | undefined,
  training: boolean,
  prefix = ''
): (module: string) => Adapter | undefined {
  if (settings === undefined) return () => undefined
  const targets = adapterTargets(model, settings)
  return (module) => {
    const target = targets.find(({ name }) => name === module)
    if (target === undefined) return undefined
    return {
      a: graph.input(`${prefix}${module}.lora_A`, 'float32', [settings.r, target.inputSize]),
      b: graph.input(`${prefix}${module}.lora_B`, 'float32', [target.outputSize, settings.r]),
      scaling: adapterScaling(settings),
      ...(training && settings.dropout > 0 ? { dropout: dropout(graph, `${module}.dropout`, settings.dropout) } : {})
    }
  }
}

/** Zeroes elements with this probability and scales up the others, by the random bits in a graph input of x's shape. */
function dropout (graph: Graph, input: string, probability: number): (x: Value) => Value {
  return (x) => {
    const uniform = mul(cast(graph.input(input, 'uint32', x.shape), 'float32'), 2 ** -32)
    return where(less(uniform, probability), 0, mul(x, 1 / (1 - probability)))
  }
}
