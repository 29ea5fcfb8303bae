import { describe, expect, it } from 'vitest'
import { bytesOf } from '../../src/tensor.ts'
import {
  baseWeights,
  decodeTensor,
  formulaLora,
  formulaWeight,
  goldenNames,
  readGolden,
  readModelGolden,
  relativeError,
  type EncodedTensor
} from './golden.ts'

interface Formula {
  seed: string
  weights: Record<string, EncodedTensor>
  lora: Record<string, EncodedTensor>
}

describe('golden tensors', () => {
  it('remakes the weights of the reference scripts bit for bit', () => {
    const { seed, weights, lora } = readGolden<Formula>('formula.json')
    for (const [name, encoded] of Object.entries(weights)) {
      expect(bytesOf(formulaWeight(seed, name, encoded.shape)), name).toEqual(bytesOf(decodeTensor(encoded)))
    }
    for (const [name, encoded] of Object.entries(lora)) {
      expect(bytesOf(formulaLora(seed, name, encoded.shape)), name).toEqual(bytesOf(decodeTensor(encoded)))
    }
  })

  it.each(goldenNames)('gives %s the hidden states its embedding says', (name) => {
    const golden = readModelGolden(name)
    const [, embedding] = [...baseWeights(golden)].find(([weight]) =>
      weight.endsWith('embed_tokens.weight') || weight.endsWith('word_embeddings.weight')
    )!
    const hidden = embedding.shape[1] ?? 0
    const rows = golden.ids.flat().flatMap((id) => Array.from(embedding.data.subarray(id * hidden, (id + 1) * hidden), Number))
    const entering = golden.hidden[0]
    expect(entering && relativeError(decodeTensor(entering).data as Float32Array, rows)).toBe(0)
  })
})

describe('relativeError', () => {
  it('measures against the largest expected value', () => {
    expect(relativeError([1, 4.5], [1, 4])).toBe(0.125)
  })

  it('lets no NaN pass', () => {
    expect(relativeError([NaN, 1], [1, 1])).toBeNaN()
  })
})
