import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import { LocalGenerator } from '../../../../src/model/generation/local-generator.ts'
import { weighedFillings } from '../../../../src/model/privacy/audit/infill.ts'
import { ModelPrior } from '../../../../src/model/privacy/audit/model-prior.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { baseWeights, decodeTensor, readGolden, type EncodedTensor, type ModelGolden } from '../../../helpers/golden.ts'
import { memorySource } from '../../../helpers/source.ts'

/** test/reference/audit_infill_golden.py. */
interface InfillGolden extends Pick<ModelGolden, 'name' | 'seed' | 'config' | 'shapes'> {
  readonly ids: readonly number[]
  readonly first: number
  readonly end: number
  readonly behind: number
  readonly fillings: ReadonlyArray<readonly number[]>
  readonly logBefore: EncodedTensor
  readonly logBehind: EncodedTensor
  readonly posterior: EncodedTensor
}

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

describe('guesses of withheld words against PyTorch', () => {
  it.each(readGolden<InfillGolden[]>('audit_infill.json'))('weigh the fillings of a gap alike: $name', async (golden) => {
    const { ids, first, end, fillings } = golden
    const generator = await LocalGenerator.load(device, modelOf(golden.config), memorySource(baseWeights(golden)))
    const prior = new ModelPrior(generator, 'a small model')
    const reading = await prior.open(ids.length)
    const after = (await reading.read(0, ids.slice(0, first))).at(-1)!
    const found = await weighedFillings({ reading, position: first, after }, fillings, ids.slice(end, end + golden.behind))
    const [before, behind] = [decodeTensor(golden.logBefore).data, decodeTensor(golden.logBehind).data]
    const weights = found.map(({ logBefore, logBehind }) => Math.exp(logBefore + logBehind))
    const sum = weights.reduce((all, weight) => all + weight, 0)
    for (const [i, { logBefore, logBehind }] of found.entries()) {
      expect(Math.abs(logBefore - Number(before[i]))).toBeLessThan(1e-3)
      expect(Math.abs(logBehind - Number(behind[i]))).toBeLessThan(1e-3)
      expect(Math.abs(weights[i]! / sum - Number(decodeTensor(golden.posterior).data[i]))).toBeLessThan(1e-4)
    }
    reading.free()
    prior.free()
  })
})
