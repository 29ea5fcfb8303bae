import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { Head } from '../../../src/model/layers/head.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { baseWeights, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import { shapesOf, TINY_CONFIG } from '../../helpers/tiny-model.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

/** With this vocabulary a run holds the logits of 128 tokens, so that 300 tokens take three runs. */
const CONFIG = { ...TINY_CONFIG, vocab_size: 2 ** 18, hidden_size: 8, tie_word_embeddings: false }
const TOKENS = 300

async function openHead (trainable: 'weights' | undefined): Promise<{ head: Head, weights: ModelWeights }> {
  const settings = trainable ?? { r: 2, alpha: 4, targets: ['q_proj'], dropout: 0, rslora: false, seed: 'head' }
  const weights = new ModelWeights(device, modelOf(CONFIG), settings)
  const { 'model.norm.weight': norm, 'lm_head.weight': head } = shapesOf(CONFIG)
  await weights.loadHead(memorySource(baseWeights({ seed: 'head', shapes: { 'model.norm.weight': norm!, 'lm_head.weight': head! } })))
  return { head: await Head.open(weights), weights }
}

describe('Head', () => {
  it.each([['adapters', undefined], ['all weights', 'weights']] as const)(
    'sums loss and gradients over several runs as over single tokens, training %s',
    async (_, trainable) => {
      const { head, weights } = await openHead(trainable)
      const hidden = await device.upload(baseWeights({ seed: 'rows', shapes: { hidden: [TOKENS, 8] } }).get('hidden')!)
      const before = await device.memory()
      const targets = Array.from({ length: TOKENS }, (_, row) => row * 7919 % CONFIG.vocab_size)
      const whole = await head.gradients(hidden, [targets])

      expect(whole.countedTokens).toBe(TOKENS)
      const parts = [[0, 100], [100, 200], [200, 300]] as const
      const sums = new Map<string, Float64Array>()
      let lossSum = 0
      for (const [first, end] of parts) {
        const part = await head.gradients(hidden, [targets.map((target, row) => row >= first && row < end ? target : -100)])
        lossSum += part.lossSum
        for (const [name, gradient] of part.gradients) {
          const { data } = await device.download(gradient)
          const sum = sums.get(name) ?? new Float64Array(data.length)
          for (const [i, value] of (data as Float32Array).entries()) sum[i]! += value
          sums.set(name, sum)
        }
        device.free(...part.gradients.values())
      }
      expect(whole.lossSum).toBeCloseTo(lossSum, 2)
      expect((await head.loss(hidden, [targets])).lossSum).toBeCloseTo(lossSum, 2)
      expect([...whole.gradients.keys()]).toEqual([...sums.keys()])
      for (const [name, gradient] of whole.gradients) {
        expect(relativeError((await device.download(gradient)).data as Float32Array, sums.get(name)!), name).toBeLessThan(1e-5)
      }
      device.free(...whole.gradients.values())
      expect((await device.memory()).heldBytes).toBe(before.heldBytes)
      device.free(hidden satisfies DeviceTensor)
      weights.free()
    }, 120_000)
})
