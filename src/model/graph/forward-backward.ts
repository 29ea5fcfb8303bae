import type { Graph, Value } from './graph.ts'
import { programOf, type Program, type TensorSpec } from './program.ts'
import { section } from './section.ts'

export interface SplitOptions {
  /** The programs are called `name.forward` and `name.backward`. */
  readonly name: string
  readonly forward: Readonly<Record<string, Value>>
  readonly backward: Readonly<Record<string, Value>>
  /** Says whether the forward program may save a value for the backward program. Only values that the latter needs are saved. */
  readonly save: (value: Value) => boolean
}

export interface ForwardBackward {
  readonly forward: Program
  readonly backward: Program
  /** The saved activations: outputs of the forward program and inputs of the backward program, beside their named values. */
  readonly residuals: readonly TensorSpec[]
  /** Makes a program for some of the backward values alone, from the same saved activations. */
  readonly backwardOf: (names: readonly string[]) => Program
}

/** Chooses which values the forward program saves: those that the graph's authors marked, or none, so that all are computed again. */
export function savePolicy (graph: Graph, policy: 'saved' | 'recomputed'): (value: Value) => boolean {
  return policy === 'saved' ? (value) => graph.isMarked(value) : () => false
}

/**
 * Splits a graph of a forward and a backward computation into two programs, as PyTorch's AOTAutograd partitioner does
 * (https://pytorch.org/docs/stable/torch.compiler_faq.html). The forward program puts out the named values and the residuals. The backward
 * program takes the residuals and the graph inputs that it needs. A value that it needs and that `save` declines is computed again.
 */
export function splitForwardBackward (graph: Graph, { name, forward, backward, save }: SplitOptions): ForwardBackward {
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

/** Finds the values that depend on these inputs alone: a forward program can put them out. */
function computedFrom (graph: Graph, inputs: ReadonlySet<Value>): Set<Value> {
  const found = new Set(inputs)
  for (const node of graph.nodes) {
    if (node.inputs.every((input) => found.has(input) || graph.constantOf(input) !== undefined)) {
      for (const output of node.outputs) found.add(output)
    }
  }
  return found
}
