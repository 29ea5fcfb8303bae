import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { AttackFigures, PriorFigures } from '../../../../src/model/privacy/audit/figures.ts'
import { meaningOf } from '../../../../src/model/privacy/audit/meaning.ts'

const share = (value: number, error = 0.001) => ({ value, error })
const prior: PriorFigures = { recovered: share(0.5), hard: share(0.01), hardTokens: 100, crossEntropy: 2 }
const attack = (leak: number, hard: number): AttackFigures => ({
  alone: share(0.5), withPrior: share(0.6), hard: share(hard), leak: share(leak), crossEntropy: 1
})
const losses = (deployed: number | undefined, alone: number) => ({ rounds: 10, unprotected: 1, deployed, alone })
const settings = { noise: 0.8, clip: 3 }

describe('what an audit means', () => {
  it.each([
    ['leaks', attack(0.9, 0.8), losses(2, 3)],
    ['leaks', attack(0.01, 0.3), losses(2, 3)],
    ['leaks', attack(0.9, 0.8), undefined],
    ['useless', attack(0.9, 0.8), losses(3.1, 3)],
    ['useless', attack(0.001, 0.01), losses(3, 3)],
    ['unknown', attack(0.001, 0.01), losses(undefined, 3)],
    ['little', attack(0.001, 0.01), losses(2, 3)]
  ] as const)('is "%s"', (verdict, figures, tried) => {
    expect(meaningOf({ hidden: { figures, prior } }, tried, settings).verdict).toBe(verdict)
  })

  it('says how much is recovered and leaks, beside the prior and the losses', () => {
    const { text } = meaningOf({ hidden: { figures: attack(0.9, 0.8), prior } }, losses(2, 3), settings)
    for (const part of ['60.0 % (± 0.1)', '50.0 %', 'Of the 100 tokens', '80.0 %', '90.0 %', '2.000', '1.000', '3.000', 'noise 0.8'])
      expect(text).toContain(part)
  })

  it('is that the text leaks where gradients tell it', () => {
    const gradient = { figures: attack(0.7, 0.6), prior }
    const { verdict, text } = meaningOf({ hidden: { figures: attack(0.001, 0.01), prior }, gradient }, losses(2, 3), settings)
    expect(verdict).toBe('leaks')
    expect(text).toContain('70.0 %')
  })

  it('is never that little leaks where the loss is not below that of the client alone, or was not measured', () => {
    const shares = fc.double({ min: 0, max: 1, noNaN: true })
    const loss = fc.double({ min: 0, max: 10, noNaN: true })
    fc.assert(fc.property(shares, shares, fc.option(loss, { nil: undefined }), loss, (leak, hard, deployed, alone) => {
      const { verdict } = meaningOf({ hidden: { figures: attack(leak, hard), prior } }, losses(deployed, alone), settings)
      if (deployed === undefined || deployed >= alone) expect(verdict).not.toBe('little')
    }))
  })
})
