import type { Graph, Value } from './graph.ts'
import { programOf, section, type Program, type TensorSpec } from './program.ts'

export interface PartitionOptions {
  /** The programs are called `name.forward` and `name.backward`. */
  readonly name: string
  readonly forward: Readonly<Record<string, Value>>
  readonly backward: Readonly<Record<string, Value>>
  /** Which values the forward program keeps for the backward one, where that needs them. */
  readonly save: (value: Value) => boolean
}

export interface Partition {
  readonly forward: Program
  readonly backward: Program
  /** What the forward program puts out, and the backward program takes in, besides their named values. */
  readonly residuals: readonly TensorSpec[]
  /** A backward program for some of the backward values alone, from the same residuals. */
  readonly backwardOf: (names: readonly string[]) => Program
}

/** Keeps the values their authors marked, or none. */
export function savePolicy (graph: Graph, policy: 'saved' | 'recomputed'): (value: Value) => boolean {
  return policy === 'saved' ? (value) => graph.isMarked(value) : () => false
}

/**
 * Splits a joint graph into a forward program, whose outputs are the named ones and the residuals, and a backward program, whose inputs are
 * the residuals and those of the graph's inputs that it needs. What the backward program needs and `save` declines is computed again
 * from these (the idea of PyTorch's AOTAutograd, https://pytorch.org/docs/stable/torch.compiler_faq.html).
 */
export function partition (graph: Graph, { name, forward, backward, save }: PartitionOptions): Partition {
  const forwardOutputs = new Map(Object.entries(forward))
  const backwardOutputs = new Map(Object.entries(backward))
  const available = computedFrom(graph, new Set(section(graph, forwardOutputs).inputs.keys()))
  const candidates = graph.nodes.flatMap((node) => node.outputs).filter((value) => available.has(value) && save(value))

  const names = new Map(candidates.map((value, i) => [value, `candidate.${i}`]))
  const needed = section(graph, backwardOutputs, names).inputs
  const kept = candidates.filter((value) => needed.has(value))
  const residuals = new Map(kept.map((value, i) => [value, `residual.${i}`]))

  const forwardProgram = programOf(
    `${name}.forward`,
    section(graph, new Map([...forwardOutputs, ...[...residuals].map(([value, residual]) => [residual, value] as const)]))
  )
  const backwardOf = (names: readonly string[]): Program =>
    programOf(`${name}.backward`, section(graph, new Map(names.map((value) => [value, backward[value]!])), residuals))
  const backwardProgram = backwardOf(Object.keys(backward))
  const residualNames = new Set(residuals.values())
  return {
    forward: forwardProgram,
    backward: backwardProgram,
    residuals: backwardProgram.inputs.filter((input) => residualNames.has(input.name)),
    backwardOf
  }
}

/** The values that these inputs determine: what a forward program could put out. */
function computedFrom (graph: Graph, inputs: ReadonlySet<Value>): Set<Value> {
  const found = new Set(inputs)
  for (const node of graph.nodes) {
    if (node.inputs.every((input) => found.has(input) || graph.constantOf(input) !== undefined)) {
      for (const output of node.outputs) found.add(output)
    }
  }
  return found
}
