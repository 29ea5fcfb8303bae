import { describe, expect, it } from 'vitest'
import { adjustLogits, changesLogits } from '../../../src/model/generation/logit-adjustments.ts'
import { createSampler } from '../../../src/model/generation/sampling.ts'

const LOGITS = Float32Array.from([4, 3, 2, 1])

describe('adjustments of logits', () => {
  it('add biases, and leave the logits that they are given', () => {
    const logits = LOGITS.slice()
    expect([...adjustLogits(logits, [], { logitBias: new Map([[0, -100], [3, 2.5], [9, 1]]) })]).toEqual([-96, 3, 2, 3.5])
    expect(logits).toEqual(LOGITS)
  })

  it('subtract the presence penalty once and the frequency penalty for each time', () => {
    const adjusted = adjustLogits(LOGITS, [0, 2, 0, 0], { presencePenalty: 0.5, frequencyPenalty: 0.25 })
    expect([...adjusted]).toEqual([4 - 0.5 - 3 * 0.25, 3, 2 - 0.5 - 0.25, 1])
  })

  it('are none where all of them are zero', () => {
    expect(changesLogits({})).toBe(false)
    expect(changesLogits({ logitBias: new Map(), presencePenalty: 0, frequencyPenalty: 0 })).toBe(false)
    for (const settings of [{ logitBias: new Map([[1, 1]]) }, { presencePenalty: 1 }, { frequencyPenalty: -1 }])
      expect(changesLogits(settings)).toBe(true)
  })
})

describe('a sampler with adjustments', () => {
  it('counts the tokens that it chose, and chooses others in their place', () => {
    const sample = createSampler({ temperature: 0, seed: '', frequencyPenalty: 0.75 })
    // 4 3 2 1; 3.25 3; 2.5 3; 2.5 2.25
    expect([0, 1, 2, 3].map((step) => sample(LOGITS, step))).toEqual([0, 0, 1, 0])
  })

  it('chooses the same when it is asked for a step again', () => {
    const sample = createSampler({ temperature: 0, seed: '', presencePenalty: 2 })
    const first = [0, 1, 2].map((step) => sample(LOGITS, step))
    expect([1, 2].map((step) => sample(LOGITS, step))).toEqual(first.slice(1))
  })

  it('draws what it draws without them where they change no probability', () => {
    const even = new Map([...LOGITS.keys()].map((id) => [id, 5]))
    const draw = (logitBias?: ReadonlyMap<number, number>): number[] => {
      const sample = createSampler({ seed: 'seed', ...(logitBias === undefined ? {} : { logitBias }) })
      return Array.from({ length: 50 }, (_, step) => sample(LOGITS, step))
    }
    expect(draw(even)).toEqual(draw())
  })
})
