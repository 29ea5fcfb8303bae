import type { Model } from '../../src/model/families/index.ts'
import { LocalGenerator } from '../../src/model/generation/local-generator.ts'
import { createSampler } from '../../src/model/generation/sampling.ts'
import type { WeightSource } from '../../src/model/layers/weights.ts'
import type { Device } from '../../src/model/runtime/device.ts'
import type { Example } from '../../src/model/text/dataset.ts'

/** Samples texts of a model, at its own probabilities, each after BOS and of so many more tokens. */
export async function sampledTexts (
  device: Device,
  model: Model,
  source: WeightSource,
  { bosId, count, tokens }: { readonly bosId: number, readonly count: number, readonly tokens: number }
): Promise<Example[]> {
  const generator = await LocalGenerator.load(device, model, source)
  try {
    const texts: Example[] = []
    for (let text = 0; text < count; text++) {
      const sampler = createSampler({ temperature: 1, seed: `withhold/${text}` })
      const ids = [bosId]
      for await (const id of generator.generate([bosId], sampler, { maxTokens: tokens })) ids.push(id)
      texts.push({ ids: Int32Array.from(ids), lossMask: Uint8Array.from(ids, (_, i) => i > 0 ? 1 : 0) })
    }
    return texts
  } finally {
    generator.free()
  }
}
