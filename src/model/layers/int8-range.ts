import { tensor } from '../../tensor.ts'
import { Graph } from '../graph/graph.ts'
import { multiplyIntegers } from '../graph/operators/index.ts'
import { program, type Program } from '../graph/program.ts'
import { compiled } from '../runtime/compiled.ts'
import type { Device } from '../runtime/device.ts'

/** As many as make a whole vector of any processor. */
const PROBE_SIZE = 64

/** The greatest products of a row's code and a matrix's. */
const [ROW_CODE, COLUMN_CODE] = [255, 127]

/** Steps of a column where pairs of products are added in 32 bits, and where they are added in 16: 255 * 64 * 2 is below 2^15. */
const [WHOLE_RANGE, REDUCED_RANGE] = [127, 64]

/**
 * Returns the steps from zero that a column of a matrix for int8 products may have on a device. Processors with VNNI, and ARM's, add
 * products in 32 bits. On x86 processors without it, onnxruntime adds pairs of them in 16 bits, which saturates silently; whether a device
 * does is seen by its product of the greatest codes.
 */
export async function columnSteps (device: Device): Promise<number> {
  const executable = await compiled(device, 'int8 range', rangeProgram)
  const { sums } = await executable.run({
    rows: tensor('uint8', [1, PROBE_SIZE], new Uint8Array(PROBE_SIZE).fill(ROW_CODE)),
    matrix: tensor('int8', [PROBE_SIZE, PROBE_SIZE], new Int8Array(PROBE_SIZE ** 2).fill(COLUMN_CODE))
  }, { keep: [] })
  return stepsFor((sums as { data: Int32Array }).data)
}

/** Returns the steps that do not saturate on a device whose product of the greatest codes comes to these sums. */
export function stepsFor (sums: Int32Array): number {
  return sums.every((sum) => sum === PROBE_SIZE * ROW_CODE * COLUMN_CODE) ? WHOLE_RANGE : REDUCED_RANGE
}

/** Inputs `rows` uint8 and `matrix` int8; output `sums` int32. */
function rangeProgram (): Program {
  const graph = new Graph()
  graph.output(
    'sums',
    multiplyIntegers(graph.input('rows', 'uint8', [1, PROBE_SIZE]), graph.input('matrix', 'int8', [PROBE_SIZE, PROBE_SIZE]))
  )
  return program('int8-range', graph)
}
