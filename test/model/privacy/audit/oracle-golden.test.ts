import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import { ModelWeights } from '../../../../src/model/layers/weights.ts'
import { CandidateStates } from '../../../../src/model/privacy/audit/candidate-states.ts'
import { candidateLikelihoods } from '../../../../src/model/privacy/audit/oracle.ts'
import { noiseDeviation } from '../../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { float32 } from '../../../../src/tensor.ts'
import { baseWeights, decodeTensor, readGolden, type EncodedTensor, type ModelGolden } from '../../../helpers/golden.ts'
import { memorySource } from '../../../helpers/source.ts'

/** test/reference/audit_golden.py. */
interface AuditGolden extends Pick<ModelGolden, 'name' | 'seed' | 'config' | 'shapes'> {
  readonly ids: readonly number[]
  readonly inputBlocks: number
  readonly clip: number
  readonly noise: number
  readonly released: EncodedTensor
  readonly prior: EncodedTensor
  readonly posterior: EncodedTensor
}

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

function softmax (logits: readonly number[]): number[] {
  const peak = Math.max(...logits)
  const weights = logits.map((logit) => Math.exp(logit - peak))
  const sum = weights.reduce((all, weight) => all + weight, 0)
  return weights.map((weight) => weight / sum)
}

describe('the oracle against PyTorch', () => {
  it.each(readGolden<AuditGolden[]>('audit.json'))('has the same posterior for every token of the vocabulary: $name', async (golden) => {
    const { ids, inputBlocks, clip, noise } = golden
    const model = modelOf(golden.config)
    const { hiddenSize, vocabularySize } = model
    const weights = new ModelWeights(device, model, 'weights')
    const source = memorySource(baseWeights(golden))
    await weights.loadEmbedding(source)
    await weights.loadBlocks(source, { first: 0, end: inputBlocks })
    const [prior, posterior] = [decodeTensor(golden.prior).data, decodeTensor(golden.posterior).data]
    const precision = noiseDeviation({ clip, noise }, hiddenSize) ** -2
    const rows = await device.upload(decodeTensor(golden.released))
    const release = { protection: { clip, noise }, rows, precision: float32([ids.length], ids.map(() => precision)) }
    const candidates = ids.slice(1).flatMap((_, i) => Array.from({ length: vocabularySize }, (_, id) => ({ position: i + 1, id })))
    const [likelihoods = new Float32Array()] = await candidateLikelihoods(
      device,
      { states: await CandidateStates.open(weights, inputBlocks), rounding: 'fp32', clip, hidden: hiddenSize },
      { ids, candidates, releases: [release] }
    )
    for (let i = 0; i < ids.length - 1; i++) {
      const ours = softmax(Array.from({ length: vocabularySize }, (_, id) =>
        likelihoods[i * vocabularySize + id]! + Number(prior[i * vocabularySize + id])))
      const difference = Math.max(...ours.map((value, id) => Math.abs(value - Number(posterior[i * vocabularySize + id]))))
      expect(difference).toBeLessThan(1e-4)
    }
    device.free(rows)
    weights.free()
  })
})
