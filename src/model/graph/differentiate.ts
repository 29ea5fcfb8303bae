import { GraphError } from './errors.ts'
import type { Graph, Value } from './graph.ts'
import { isFloat } from './operator.ts'
import { add, zerosLike } from './operators/index.ts'
import { format, sameShape } from './shapes.ts'

/**
 * Reverse-mode differentiation: appends the nodes that compute the gradients of `wrt`, given the gradients of `outputs`.
 * A value that no output depends on gets zeros of its shape. Throws GraphError where a gradient must pass an operator without a derivative.
 */
export function differentiate (graph: Graph, outputs: ReadonlyArray<{ value: Value, gradient: Value }>, wrt: readonly Value[]): Value[] {
  const nodes = [...graph.nodes]
  const active = dependents(graph, wrt)
  const gradients = new Map<Value, Value>()
  const accumulate = (value: Value, gradient: Value) => {
    const known = gradients.get(value)
    gradients.set(value, known === undefined ? gradient : add(known, gradient))
  }
  for (const { value, gradient } of outputs) {
    if (!sameShape(value.shape, gradient.shape))
      throw new GraphError(
        `a gradient of shape ${format(gradient.shape)} does not fit an output of shape ${format(value.shape)}`,
        'give the gradient the shape of its output'
      )
    accumulate(value, gradient)
  }
  for (const node of nodes.reverse()) {
    if (!node.outputs.some((output) => active.has(output) && gradients.has(output))) continue
    if (node.vjp === undefined) throw new GraphError(`${node.name} has no derivative`, 'build what is trained from operators that have one')
    const passed = node.vjp(node.outputs.map((output) => gradients.get(output)))
    node.inputs.forEach((input, i) => {
      const gradient = passed[i]
      if (gradient !== undefined && active.has(input)) accumulate(input, gradient)
    })
  }
  return wrt.map((value) => gradients.get(value) ?? zerosLike(value))
}

/** Returns the floating-point values that depend on any of these, and these. */
function dependents (graph: Graph, roots: readonly Value[]): Set<Value> {
  const found = new Set(roots)
  for (const node of graph.nodes) {
    if (node.inputs.some((input) => found.has(input))) for (const output of node.outputs) if (isFloat(output)) found.add(output)
  }
  return found
}
