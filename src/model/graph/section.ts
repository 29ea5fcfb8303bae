import type { Graph, Node, Value } from './graph.ts'

/** The part of a graph that a program consists of. */
export interface Section {
  readonly graph: Graph
  readonly nodes: readonly Node[]
  readonly inputs: ReadonlyMap<Value, string>
  readonly outputs: ReadonlyMap<string, Value>
}

/** Returns what computes `outputs`; values in `given` come in under the names there instead of being computed. */
export function section (graph: Graph, outputs: ReadonlyMap<string, Value>, given: ReadonlyMap<Value, string> = new Map()): Section {
  const needed = new Set(outputs.values())
  const nodes = graph.nodes.toReversed().filter((node) => {
    const runs = node.outputs.some((output) => needed.has(output) && !given.has(output))
    if (runs) for (const input of node.inputs) needed.add(input)
    return runs
  }).reverse()

  const inputs = new Map<Value, string>()
  for (const [name, value] of graph.inputs) if (needed.has(value)) inputs.set(value, name)
  for (const [value, name] of given) if (needed.has(value)) inputs.set(value, name)
  for (const dim of nodes.flatMap((node) => node.reads ?? [])) {
    const holder = graph.holderOf(dim)!
    if (![...inputs.keys()].some((input) => input.shape.includes(dim))) inputs.set(holder, graph.inputName(holder)!)
  }
  return { graph, nodes, inputs, outputs }
}
