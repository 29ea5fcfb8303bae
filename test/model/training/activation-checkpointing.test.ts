import { describe, expect, it } from 'vitest'
import { ResidualChoice, type PassCost } from '../../../src/model/training/activation-checkpointing.ts'

const costs: Record<'saved' | 'recomputed', PassCost> = {
  saved: { rows: 10, bytes: 1000, ms: 20 },
  recomputed: { rows: 10, bytes: 100, ms: 30 }
}

/** The policies of so many passes, each of ten rows. */
function passes (choice: ResidualChoice, count: number, taken = costs): string[] {
  return Array.from({ length: count }, () => {
    const policy = choice.next(10)
    choice.record(policy, taken[policy])
    return policy
  })
}

describe('the choice of residuals', () => {
  it.each(['saved', 'recomputed'] as const)('is %s where the setting says so, measured or not', (setting) => {
    const choice = new ResidualChoice(setting)
    expect(new Set(passes(choice, 10))).toEqual(new Set([setting]))
    expect(choice.report.policy).toBe(setting)
    expect(choice.report[setting]).toEqual({ bytesPerRow: costs[setting].bytes / 10, msPerRow: costs[setting].ms / 10 })
  })

  it('takes turns, and then keeps the faster', () => {
    const choice = new ResidualChoice('auto')
    const turns = passes(choice, 8)
    expect(turns.filter((policy) => policy === 'saved')).toHaveLength(4)
    expect(passes(choice, 3)).toEqual(['saved', 'saved', 'saved'])
    expect(choice.report).toEqual({
      setting: 'auto',
      policy: 'saved',
      saved: { bytesPerRow: 100, msPerRow: 2 },
      recomputed: { bytesPerRow: 10, msPerRow: 3 }
    })

    const other = new ResidualChoice('auto')
    const slow = { ...costs, saved: { ...costs.saved, ms: 40 } }
    passes(other, 8, slow)
    expect(passes(other, 3, slow)).toEqual(['recomputed', 'recomputed', 'recomputed'])
  })

  it('does not count the first pass of a policy', () => {
    const choice = new ResidualChoice('auto')
    passes(choice, 2, { ...costs, saved: { ...costs.saved, ms: 1 } })
    passes(choice, 6)
    expect(choice.report.saved?.msPerRow).toBe(2)
  })

  it('saves only what stays within the limit, for each pass anew', () => {
    const choice = new ResidualChoice('auto', 1500)
    passes(choice, 8)
    expect([choice.next(10), choice.next(20)]).toEqual(['saved', 'recomputed'])
    const tight = new ResidualChoice('auto', 500)
    expect(passes(tight, 8).filter((policy) => policy === 'saved')).toHaveLength(1)
  })

  it('has no policy to tell of while it measures', () => {
    const choice = new ResidualChoice('auto')
    passes(choice, 7)
    expect(choice.report.policy).toBeUndefined()
  })
})
