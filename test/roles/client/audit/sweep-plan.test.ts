import { describe, expect, it } from 'vitest'
import { planSweep, settingText } from '../../../../src/roles/client/audit/sweep-plan.ts'

const charter = {
  model: { hidden: 64 },
  partitions: { inputBlocks: { min: 1, max: 2 }, outputBlocks: { min: 1, max: 1 } },
  privacy: { noise: 0.3, gradientNoise: 0, clip: { hidden: {}, gradient: {} } }
} as unknown as Parameters<typeof planSweep>[0]
const settings = { partition: { inputBlocks: 2, outputBlocks: 1 }, noise: 0.5, gradientNoise: 0.1, wire: 'fp32' } as const

describe('the settings of a sweep', () => {
  it('never have less noise than the charter allows, and say so', () => {
    const { groups, notices } = planSweep(charter, settings, { axes: ['noise'], rules: undefined })
    expect(groups).toHaveLength(1)
    expect(groups[0]!.noises).toEqual([
      { noise: 0.3, gradientNoise: 0 }, { noise: 0.3, gradientNoise: 0.2 }, { noise: 0.4, gradientNoise: 0.4 },
      { noise: 0.5, gradientNoise: 0.1 }, { noise: 0.8, gradientNoise: 0.8 }, { noise: 1.6, gradientNoise: 1.6 }
    ])
    expect(notices.join()).toMatch(/less noise than the charter's floor \(0\.3 .*another charter/)
  })

  it('keep their noise where the charter has no clip norms', () => {
    const { groups, notices } = planSweep({ ...charter, privacy: { ...charter.privacy, clip: null } }, settings, { axes: ['noise'], rules: undefined })
    expect(groups[0]!.noises).toEqual([{ noise: 0.5, gradientNoise: 0.1 }])
    expect(notices.join()).toContain('no clip norms')
  })

  it('begin with the cut that the client has, and stay within those of the charter', () => {
    const { groups, notices } = planSweep(charter, settings, { axes: ['partition'], rules: undefined })
    expect(groups.map(({ partition }) => partition)).toEqual([{ inputBlocks: 2, outputBlocks: 1 }, { inputBlocks: 1, outputBlocks: 1 }])
    expect(notices.join()).toContain('cuts beyond 1 to 2 blocks before the middle and 1 behind it take another charter')
  })

  it('withhold what is given in all of them, and more', () => {
    const rulesOf = (rules: string | undefined): Array<string | undefined> =>
      planSweep(charter, settings, { axes: ['withhold'], rules }).groups.map((group) => group.rules)
    expect(rulesOf(undefined).slice(0, 3)).toEqual([undefined, 'numbers', 'names'])
    expect(rulesOf('names, people.txt')).toEqual([
      'names, people.txt', ...['numbers', 'capitals', 'rare:0.1%', 'rare:1%'].map((rule) => `names, people.txt,${rule}`)
    ])
  })

  it('are described in words', () => {
    expect(settingText({ inputBlocks: 1, outputBlocks: 2 }, 'names', { noise: 0, gradientNoise: 0 }))
      .toBe('1 and 2 blocks here, names withheld, no noise')
  })
})
