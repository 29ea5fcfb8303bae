import { Graph } from '../../src/model/graph/graph.ts'
import { matmul, reduceSum } from '../../src/model/graph/operators/index.ts'
import { program } from '../../src/model/graph/program.ts'
import type { Device, DeviceTensor, Executable } from '../../src/model/runtime/device.ts'
import { float32 } from '../../src/tensor.ts'

/** No power of two: rows that lie 8 KiB apart fall on each other's places in a core's first cache, which costs a tenth to a quarter. */
const SIZE = 2064

/** One product of two large square matrices: what a device's arithmetic comes to where nothing stands in its way. */
export class MatrixProduct {
  static readonly size = SIZE
  /** Multiplications and additions. */
  static readonly flops = 2 * SIZE ** 3
  readonly #executable: Executable
  readonly #operands: Readonly<Record<'a' | 'b', DeviceTensor>>

  private constructor (executable: Executable, operands: Readonly<Record<'a' | 'b', DeviceTensor>>) {
    this.#executable = executable
    this.#operands = operands
  }

  static async open (device: Device): Promise<MatrixProduct> {
    const graph = new Graph()
    const input = (name: string) => graph.input(name, 'float32', [SIZE, SIZE])
    graph.output('y', reduceSum(matmul(input('a'), input('b'))))
    const values = Float32Array.from({ length: SIZE ** 2 }, (_, i) => Math.sin(i))
    const operand = async (): Promise<DeviceTensor> => await device.upload(float32([SIZE, SIZE], values))
    return new MatrixProduct(await device.compile(program('matrix-product', graph)), { a: await operand(), b: await operand() })
  }

  /** Milliseconds of one. */
  async run (): Promise<number> {
    const start = performance.now()
    await this.#executable.run(this.#operands)
    return performance.now() - start
  }
}
