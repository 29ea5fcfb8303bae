import { describe, expect, it } from 'vitest'
import { describeNoiseCost, noiseCost } from '../../../src/model/privacy/noise-cost.ts'

const losses = {
  1: [{ noise: 0, loss: 3.7 }, { noise: 0.1, loss: 3.76 }, { noise: 0.2, loss: 3.9 }, { noise: 0.5, loss: 7.25 }],
  4: [{ noise: 0, loss: 3.7 }, { noise: 0.5, loss: 3.75 }]
}
const sentence = (inputBlocks: number, noise: number): string => describeNoiseCost(noiseCost(losses, inputBlocks, noise)!)

describe('noiseCost', () => {
  it('says what a noise costs, and what leaves the model useful', () => {
    expect(sentence(1, 0.5)).toBe('Noise 0.5 on hidden states: loss 3.70 → 7.25 on the sample text: the model will not be useful; 0.1 and less leave it useful')
    expect(sentence(1, 0.2)).toBe('Noise 0.2 on hidden states: loss 3.70 → 3.90 on the sample text: the model will be noticeably worse; 0.1 and less leave it useful')
    expect(sentence(1, 0.05)).toBe('Noise 0.05 on hidden states: loss 3.70 → 3.73 on the sample text: the model stays useful')
  })

  it('takes the nearest cut that was measured, and the last loss for more noise than was', () => {
    expect(noiseCost(losses, 3, 0.5)).toMatchObject({ lossWith: 3.75, verdict: 'useful', usefulNoise: 0.5 })
    expect(noiseCost(losses, 2, 0.5)).toMatchObject({ lossWith: 7.25 })
    expect(noiseCost(losses, 1, 9)).toMatchObject({ lossWith: 7.25, verdict: 'useless' })
  })

  it('says so where no noise leaves the model useful', () => {
    const table = { 1: [{ noise: 0, loss: 2 }, { noise: 0.02, loss: 4 }] }
    expect(describeNoiseCost(noiseCost(table, 1, 0.02)!)).toContain('no noise that was tried leaves it useful')
  })

  it('says without noise how much may be added', () => {
    expect(sentence(1, 0)).toBe('Without noise the sample text has a loss of 3.70; noise of 0.1 and less leaves the model useful')
  })

  it('knows nothing where nothing was measured', () => {
    expect(noiseCost(undefined, 1, 0.5)).toBeUndefined()
    expect(noiseCost({}, 1, 0.5)).toBeUndefined()
    expect(noiseCost({ 1: [] }, 1, 0.5)).toBeUndefined()
    expect(noiseCost({ 1: [{ noise: 0.1, loss: 3 }] }, 1, 0.5)).toBeUndefined()
  })
})
