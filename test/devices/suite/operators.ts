import { expect, it } from 'vitest'
import { Graph } from '../../../src/model/graph/graph.ts'
import { argMax } from '../../../src/model/graph/operators/index.ts'
import { program } from '../../../src/model/graph/program.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { expectDerivative } from '../../model/graph/derivatives.ts'
import { operatorCases } from '../../model/graph/operator-cases.ts'
import type { Subject } from '../suite.ts'

export function operators ({ device }: Subject): void {
  it.each(Object.entries(operatorCases))('the derivative of %s agrees with finite differences', async (_, derivativeCase) => {
    await expectDerivative(derivativeCase, async (graph: Graph, inputs: Record<string, Tensor>) => {
      const executable = await device().compile(program('test', graph))
      try {
        return await executable.run(inputs) as Record<string, Tensor>
      } finally {
        await executable.close()
      }
    })
  })

  it('finds the first of the largest elements', async () => {
    const graph = new Graph()
    graph.output('index', argMax(graph.input('x', 'float32', ['rows', 4])))
    const executable = await device().compile(program('largest', graph))
    const { index } = await executable.run({ x: float32([2, 4], [-1, 3, 3, 0, -4, -3, -2, -1]) })
    expect(index).toEqual({ dtype: 'int64', shape: [2], data: BigInt64Array.of(1n, 3n) })
    await executable.close()
  })
}
