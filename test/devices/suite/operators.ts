import { it } from 'vitest'
import type { Graph } from '../../../src/model/graph/graph.ts'
import { program } from '../../../src/model/graph/program.ts'
import type { Tensor } from '../../../src/tensor.ts'
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
}
