import type { Quantization } from '../../src/model/graph/operators/index.ts'
import { formatProgram, keptTensors, type WeightFormat } from '../../src/model/layers/weight-format.ts'
import type { WeightSource } from '../../src/model/layers/weights.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import { float32, type Tensor } from '../../src/tensor.ts'

/** What codes of a matrix [out, in] stand for, element by element, as the layout says. */
export function plainly (
  { codes, scales }: { codes: Tensor, scales: Tensor },
  [outputSize, inputSize]: readonly [number, number],
  { bits, blockSize }: Quantization
): Float32Array {
  const blocks = Math.ceil(inputSize / blockSize)
  return Float32Array.from({ length: outputSize * inputSize }, (_, at) => {
    const [row, column] = [Math.floor(at / inputSize), at % inputSize]
    const element = row * blocks * blockSize + column
    const code = bits === 8 ? Number(codes.data[element]) : Number(codes.data[element >> 1]) >> (element % 2 * 4) & 15
    return (code - 2 ** (bits - 1)) * Number(scales.data[row * blocks + Math.floor(column / blockSize)])
  })
}

/** The same weights, with each matrix as float32 values of what its format keeps. */
export function rounded (device: Device, source: WeightSource, formatOf: (name: string) => WeightFormat): WeightSource {
  return {
    async read (name) {
      const weight = await source.read(name)
      const format = formatOf(name)
      const [first] = keptTensors({ name: 'weight', shape: weight.shape }, format).values()
      if (first!.dtype === 'float32') return weight
      const executable = await device.compile(formatProgram(weight, format))
      const kept = await executable.run({ matrix: weight }) as Record<string, Tensor>
      await executable.close()
      if (first!.dtype === 'float16') return float32(weight.shape, Float32Array.from(kept.weight!.data as Uint16Array, halfValue))
      const shape = weight.shape as readonly [number, number]
      return float32(
        shape,
        plainly({ codes: kept['weight.codes']!, scales: kept['weight.scales']! }, shape, { bits: format === 'int8' ? 8 : 4, blockSize: 32 })
      )
    }
  }
}

/** The value of a float16's bits. */
function halfValue (bits: number): number {
  const [sign, exponent, fraction] = [bits >> 15 === 0 ? 1 : -1, bits >> 10 & 31, bits & 1023]
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15))
}
