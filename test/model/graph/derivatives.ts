import { expect } from 'vitest'
import { differentiate } from '../../../src/model/graph/differentiate.ts'
import { Graph, type Dim, type Value } from '../../../src/model/graph/graph.ts'
import { mul, reduceSum } from '../../../src/model/graph/operators/index.ts'
import { elementCount, float32, type Tensor } from '../../../src/tensor.ts'
import { runGraph } from './run.ts'

/** Central differences in float32: an error of order STEP² against rounding of order 1e-7 / STEP. */
const STEP = 1e-2
const TOLERANCE = 2e-3

export interface DerivativeCase {
  /** The operands that get gradients: their shapes, or sizes for symbolic ones through `sizes`. */
  readonly shapes: ReadonlyArray<readonly Dim[]>
  readonly sizes?: Readonly<Record<string, number>>
  /** Values are drawn from this interval. */
  readonly interval?: readonly [number, number]
  /** Further inputs, without gradients. */
  readonly extra?: (graph: Graph) => Record<string, { value: Value, data: Tensor }>
  readonly build: (operands: readonly Value[], extra: Record<string, Value>, graph: Graph) => Value | readonly Value[]
}

/** Numbers that look random and are the same every time. */
export function pseudoRandom (seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

/**
 * Compares the derivative along a random direction of all operands with a central difference of a random weighting of the outputs, as `run`
 * computes them.
 */
export async function expectDerivative (
  { shapes, sizes = {}, interval = [-1, 1], extra, build }: DerivativeCase,
  run = runGraph
): Promise<void> {
  const graph = new Graph()
  const random = pseudoRandom(7)
  const draw = (shape: readonly Dim[], [low, high] = interval) => {
    const known = shape.map((dim) => typeof dim === 'number' ? dim : sizes[dim]!)
    return float32(known, Array.from({ length: elementCount(known) }, () => low + (high - low) * random()))
  }
  const operands = shapes.map((shape, i) => graph.input(`x${i}`, 'float32', shape))
  const others = extra?.(graph) ?? {}
  const built = build(operands, Object.fromEntries(Object.entries(others).map(([name, { value }]) => [name, value])), graph)
  const outputs = 'id' in built ? [built] : built
  const weights = outputs.map((output, i) => graph.input(`w${i}`, 'float32', output.shape))
  outputs.forEach((output, i) => { graph.output(`loss${i}`, reduceSum(mul(output, weights[i]!))) })
  const gradients = differentiate(graph, outputs.map((value, i) => ({ value, gradient: weights[i]! })), operands)
  gradients.forEach((gradient, i) => {
    expect(gradient.shape).toEqual(shapes[i])
    graph.output(`g${i}`, gradient)
  })

  const points = Object.fromEntries(shapes.map((shape, i) => [`x${i}`, draw(shape)]))
  const given = Object.fromEntries(Object.values(others).map(({ value, data }) => [graph.inputName(value)!, data]))
  const scales = Object.fromEntries(weights.map((weight, i) => [`w${i}`, draw(weight.shape, [-1, 1])]))
  const directions = shapes.map((shape) => draw(shape, [-1, 1]))
  const at = async (step: number) => await run(graph, { ...given, ...scales, ...moved(points, directions, step) })
  const loss = (results: Record<string, Tensor>) => outputs.reduce((sum, _, i) => sum + Number(results[`loss${i}`]!.data[0]), 0)

  const here = await at(0)
  gradients.forEach((_, i) => { expect(here[`g${i}`]!.shape).toEqual(points[`x${i}`]!.shape) })
  const analytic = directions.reduce((sum, direction, i) => sum + dot(direction, here[`g${i}`]!), 0)
  const numeric = (loss(await at(STEP)) - loss(await at(-STEP))) / (2 * STEP)
  expect(Math.abs(analytic - numeric), `analytic ${analytic}, numeric ${numeric}`).toBeLessThan(TOLERANCE * Math.max(1, Math.abs(numeric)))
}

function moved (points: Record<string, Tensor>, directions: readonly Tensor[], step: number): Record<string, Tensor> {
  return Object.fromEntries(Object.entries(points).map(([name, { shape, data }], i) => {
    return [name, float32(shape, Float32Array.from(data as Float32Array, (value, j) => value + step * Number(directions[i]!.data[j])))]
  }))
}

function dot (a: Tensor, b: Tensor): number {
  return (a.data as Float32Array).reduce((sum, value, i) => sum + value * Number(b.data[i]), 0)
}
