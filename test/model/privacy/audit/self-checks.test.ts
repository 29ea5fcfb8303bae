import { describe, expect, it } from 'vitest'
import type { AttackFigures, PriorFigures } from '../../../../src/model/privacy/audit/figures.ts'
import { AuditCheckError, requirePassed, selfChecks, type CheckedFigures } from '../../../../src/model/privacy/audit/self-checks.ts'

const share = (value: number, error = 0.01) => ({ value, error })
const prior: PriorFigures = { recovered: share(0.5), hard: share(0.01), hardTokens: 100, crossEntropy: 2 }
const attack = (alone: number, withPrior: number, leak: number): AttackFigures => ({
  alone: share(alone), withPrior: share(withPrior), hard: share(withPrior), leak: share(leak, 0.001), crossEntropy: 1
})

const sound: CheckedFigures = {
  prior,
  released: [attack(1, 1, 1), attack(0.6, 0.9, 0.8), attack(0.01, 0.505, 0.002)],
  noise: [{ sum: 0, count: 64_000 }, { sum: 64_100, count: 64_000 }, { sum: 64_000, count: 64_000 }],
  bare: 0,
  deployed: 1,
  drowned: 2,
  knowsWeights: true,
  isNoised: true
}

const withRelease = (index: number, figures: AttackFigures): CheckedFigures => ({
  ...sound, released: sound.released.map((each, i) => i === index ? figures : each)
})

describe('the checks that an audit makes of itself', () => {
  it('pass where everything is as it must be', () => {
    const checks = selfChecks(sound)
    expect(checks.map(({ passed }) => passed)).toEqual([true, true, true, true])
    requirePassed(checks)
  })

  it.each<[string, CheckedFigures, RegExp]>([
    ['the oracle misses tokens without noise', withRelease(0, attack(0.98, 1, 1)), /without noise .* at least 99.0 %, found 98.0 %/],
    ['something comes through noise that drowns everything', withRelease(2, attack(0.3, 0.53, 0.05)), /drowns everything/],
    ['less than the prior comes through it', withRelease(2, attack(0.01, 0.45, -0.05)), /drowns everything/],
    ['the prior misleads', withRelease(1, attack(0.9, 0.6, 0.5)), /with the prior no less/],
    ['the noise is smaller than it should be', {
      ...sound, noise: sound.noise.map((each, i) => i === 1 ? { sum: 62_000, count: 64_000 } : each)
    }, /variance of the noise/],
    ['no noise was seen', { ...sound, noise: sound.noise.map(() => ({ sum: 0, count: 0 })) }, /variance of the noise/]
  ])('fail where %s', (_, figures, message) => {
    const checks = selfChecks(figures)
    expect(checks.filter(({ passed }) => !passed)).toHaveLength(1)
    expect(() => { requirePassed(checks) }).toThrow(AuditCheckError)
    expect(() => { requirePassed(checks) }).toThrow(message)
    expect(() => { requirePassed(checks) }).toThrow(/there is no report/)
  })
})
