import { expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { CachedClientModel } from '../../../src/model/generation/cached-client-model.ts'
import { argmax } from '../../../src/model/generation/sampling.ts'
import { sequencesOf } from '../../../src/model/layers/hidden-states.ts'
import { loadClientModel } from '../../../src/model/training/client-model.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { answersOf, chatglmRevisions, promptOf, readChatGLMGolden } from '../../helpers/chatglm.ts'
import { baseWeights, decodeTensor, loraWeights, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import type { Subject } from '../suite.ts'

/** Models that read prompts in both directions: the original ChatGLM. */
export function prompts ({ device, tolerance }: Subject): void {
  it.each(chatglmRevisions)('revision %s has the hidden states and gradients of the formulas', async (revision) => {
    const golden = readChatGLMGolden(revision)
    const model = modelOf(golden.config)
    const span = await TrainableSpan.load(device(), model, memorySource(baseWeights(golden)), { first: 0, end: model.layers }, {
      ...golden.lora,
      dropout: 0,
      rslora: false,
      seed: ''
    })
    await span.weights.setTrained(loraWeights(golden))
    const { hidden, residuals } = await span.forward({
      hidden: decodeTensor(golden.loraHidden[0]!),
      ...sequencesOf(model, answersOf(golden.ids).ids)
    }, { keepResiduals: true })
    const { gradient, adapters } = await span.backward(residuals!, decodeTensor(golden.hiddenGradients[model.layers]!))
    const results = [
      ['hidden', hidden, golden.loraHidden[model.layers]!, tolerance.hidden],
      ['gradient', gradient, golden.hiddenGradients[0]!, tolerance.gradient],
      ...[...adapters].map(([name, value]) => [name, value, golden.gradients[name]!, tolerance.gradient] as const)
    ] as const
    for (const [name, value, expected, bound] of results) {
      expect(relativeError((await device().download(value)).data as Float32Array, decodeTensor(expected).data as Float32Array), name)
        .toBeLessThan(bound)
      device().free(value)
    }
    span.free()
  })

  it.each(chatglmRevisions)('revision %s generates what full passes generate', async (revision) => {
    const golden = readChatGLMGolden(revision)
    const model = modelOf(golden.config)
    const whole = { inputBlocks: 0, outputBlocks: model.layers }
    const { weights } = await loadClientModel(device(), model, memorySource(baseWeights(golden)), whole, 'weights')
    for (const [i, expected] of golden.greedy.entries()) {
      const ends = await CachedClientModel.create(weights, whole, 32)
      const ids: number[] = []
      while (ids.length < expected.length) {
        const fresh = ids.length === 0 ? promptOf(golden.ids[i]!) : ids.slice(-1)
        ids.push(argmax(await ends.logits(await ends.embed(fresh), fresh.length)))
      }
      expect(ids).toEqual(expected)
      ends.free()
    }
    weights.free()
  })
}
