import { describe, expect, it } from 'vitest'
import { differentiate } from '../../../src/model/graph/differentiate.ts'
import { savePolicy, splitForwardBackward } from '../../../src/model/graph/forward-backward.ts'
import { Graph } from '../../../src/model/graph/graph.ts'
import { add, matmul, mul, rmsNorm, silu, split } from '../../../src/model/graph/operators/index.ts'
import { program } from '../../../src/model/graph/program.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { pseudoRandom } from './derivatives.ts'
import { runProgram } from './run.ts'

/** A gated feed-forward layer with its gradients. */
function layer () {
  const graph = new Graph()
  const x = graph.input('x', 'float32', ['rows', 4])
  const weights = [
    graph.input('norm', 'float32', [4]),
    graph.input('up', 'float32', [12, 4]),
    graph.input('down', 'float32', [4, 6])
  ] as const
  const { output: normalized, inverseRms } = rmsNorm(x, weights[0], 1e-6)
  graph.mark(inverseRms)
  const [gate, up] = split(graph.mark(matmul(normalized, weights[1], { transposeB: true })), [6, 6], 1)
  const y = add(x, matmul(mul(silu(gate!), up!), weights[2], { transposeB: true }))
  const gradient = graph.input('gradient.y', 'float32', ['rows', 4])
  const [dx, dNorm, dUp] = differentiate(graph, [{ value: y, gradient }], [x, ...weights])
  return { graph, forward: { y }, backward: { dx: dx!, dNorm: dNorm!, dUp: dUp! } }
}

const random = pseudoRandom(5)
const uniform = (shape: readonly number[]) => float32(shape, Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random() - 0.5))
const inputs = {
  'x': uniform([3, 4]),
  'norm': uniform([4]),
  'up': uniform([12, 4]),
  'down': uniform([4, 6]),
  'gradient.y': uniform([3, 4])
}

async function runSplit (policy: 'saved' | 'recomputed') {
  const { graph, forward, backward } = layer()
  const parts = splitForwardBackward(graph, { name: 'layer', forward, backward, save: savePolicy(graph, policy) })
  const first = await runProgram(parts.forward, inputs)
  const residuals: Record<string, Tensor> = Object.fromEntries(parts.residuals.map(({ name }) => [name, first[name]!]))
  return { ...parts, y: first.y!, gradients: await runProgram(parts.backward, { ...inputs, ...residuals }) }
}

describe('splitForwardBackward', () => {
  it('computes what the joint graph computes, whether values are saved or computed again', async () => {
    const { graph, forward, backward } = layer()
    for (const [name, value] of Object.entries({ ...forward, ...backward })) graph.output(name, value)
    const { y, ...gradients } = await runProgram(program('joint', graph), inputs)
    for (const policy of ['saved', 'recomputed'] as const) {
      const parts = await runSplit(policy)
      expect(parts.y).toEqual(y)
      expect(parts.gradients).toEqual(gradients)
    }
  })

  it('saves the marked values that the backward program needs', async () => {
    const { forward, backward, residuals } = await runSplit('saved')
    expect(residuals).toEqual([{ name: 'residual.0', dtype: 'float32', shape: ['rows', 1] }, {
      name: 'residual.1',
      dtype: 'float32',
      shape: ['rows', 12]
    }])
    expect(forward.outputs.map(({ name }) => name)).toEqual(['y', 'residual.0', 'residual.1'])
    expect(backward.inputs.map(({ name }) => name).sort()).toEqual(['down', 'gradient.y', 'norm', 'residual.0', 'residual.1', 'up', 'x'])
  })

  it('hands over nothing but inputs when everything is computed again', async () => {
    const { forward, backward, residuals } = await runSplit('recomputed')
    expect(residuals).toEqual([])
    expect(forward.outputs.map(({ name }) => name)).toEqual(['y'])
    expect(backward.inputs.map(({ name }) => name).sort()).toEqual(['down', 'gradient.y', 'norm', 'up', 'x'])
  })

  it('never saves what depends on a gradient', () => {
    const { graph, forward, backward } = layer()
    const { residuals, forward: { inputs: needed } } = splitForwardBackward(graph, { name: 'layer', forward, backward, save: () => true })
    expect(residuals.length).toBeGreaterThan(2)
    expect(needed.map(({ name }) => name)).not.toContain('gradient.y')
  })

  it('may save a value that is also an output', () => {
    const { graph, forward, backward } = layer()
    const { forward: first } = splitForwardBackward(graph, {
      name: 'layer',
      forward: { ...forward, inverse: graph.nodes.find((node) => node.name === 'reciprocal')!.outputs[0]! },
      backward,
      save: savePolicy(graph, 'saved')
    })
    expect(first.outputs.map(({ name }) => name)).toEqual(['y', 'inverse', 'residual.0', 'residual.1'])
  })
})
