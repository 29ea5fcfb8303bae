import { expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { CachedSpan } from '../../../src/model/generation/cached-span.ts'
import { SequenceCache } from '../../../src/model/generation/kv-cache.ts'
import { weightFormats, type WeightFormat } from '../../../src/model/layers/weight-format.ts'
import { ModelWeights, type WeightSource } from '../../../src/model/layers/weights.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { baseWeights, decodeTensor, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { rounded } from '../../helpers/quantized.ts'
import { memorySource } from '../../helpers/source.ts'
import type { Subject } from '../suite.ts'

const golden = readModelGolden('llama/gqa')
const model = modelOf(golden.config)
const span = { first: 0, end: model.layers }
const lengths = golden.ids.map((ids) => ids.length)

export function formats ({ device, tolerance }: Subject): void {
  const values = async (value: Parameters<ReturnType<typeof device>['download']>[0]) =>
    (await device().download(value)).data as Float32Array

  /** What a span gives forward and backward, and what its cached blocks give for the first sequence. */
  const computed = async (source: WeightSource, format: WeightFormat): Promise<Record<'hidden' | 'gradient' | 'cached', Float32Array>> => {
    const weights = new ModelWeights(device(), model, { ...golden.lora, dropout: 0, rslora: false, seed: '' }, format)
    const blocks = await TrainableSpan.load(device(), model, source, span, weights.trainable, { weights })
    await weights.setTrained(loraWeights(golden))
    const { hidden, residuals } = await blocks.forward({ hidden: decodeTensor(golden.loraHidden[0]!), lengths }, { keepResiduals: true })
    const { gradient, adapters } = await blocks.backward(residuals!, decodeTensor(golden.hiddenGradients[model.layers]!))
    const cache = await SequenceCache.create(device(), model, span, 32)
    const cached = await new CachedSpan(weights).forward(decodeTensor(golden.loraHidden[0]!), [{
      cache,
      count: decodeTensor(golden.loraHidden[0]!).shape[0]!
    }], span)
    const results = { hidden: await values(hidden), gradient: await values(gradient), cached: await values(cached) }
    device().free(hidden, gradient, cached, ...adapters.values())
    cache.free()
    weights.free()
    return results
  }

  it.each(weightFormats.filter((format) => format !== 'fp32'))(
    'weights kept as %s compute as the values they stand for',
    async (format) => {
      const source = memorySource(baseWeights(golden))
      const kept = await computed(source, format)
      const plain = await computed(rounded(device(), source, () => format), 'fp32')
      expect(relativeError(kept.hidden, plain.hidden)).toBeLessThan(tolerance.hidden)
      expect(relativeError(kept.gradient, plain.gradient)).toBeLessThan(tolerance.gradient)
      // Where a device multiplies quantised codes as they are, it may round what they are multiplied by to 8 bits.
      expect(relativeError(kept.cached, plain.cached)).toBeLessThan(
        format === 'fp16' || device().kind === 'webgpu' ? tolerance.hidden : 2e-2
      )
    }
  )
}
