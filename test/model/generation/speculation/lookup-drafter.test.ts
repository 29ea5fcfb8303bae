import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { LookupDrafter } from '../../../../src/model/generation/speculation/lookup-drafter.ts'
import { NgramIndex } from '../../../../src/model/generation/speculation/ngram-index.ts'

const CAPACITY = 200

function drafterOf (text: readonly number[], before: readonly number[] = []): LookupDrafter {
  const history = new NgramIndex(CAPACITY)
  for (const token of before) history.add(token)
  history.endText()
  const drafter = new LookupDrafter(CAPACITY, history)
  drafter.add(text)
  return drafter
}

describe('drafts by lookup', () => {
  it('are what followed the same tokens in the text', () => {
    expect(drafterOf([5, 6, 7, 8, 9, 5, 6]).draft(2)).toEqual({ tokens: [7, 8], source: 'text', matched: 2 })
  })

  it('are what followed them in a text before where the match is longer there', () => {
    expect(drafterOf([6, 1, 5, 6], [5, 6, 7, 8]).draft(4)).toEqual({ tokens: [7, 8], source: 'history', matched: 2 })
    expect(drafterOf([6, 1, 9, 6], [5, 6, 7, 8]).draft(4)).toMatchObject({ source: 'text', matched: 1 })
  })

  it('go on in circles where the text does', () => {
    expect(drafterOf([1, 2, 3, 1, 2, 3]).draft(4)?.tokens).toEqual([1, 2, 3, 1])
    expect(drafterOf([4, 4]).draft(3)?.tokens).toEqual([4, 4, 4])
  })

  it('are none where nothing occurred before or nothing is wanted', () => {
    expect(drafterOf([1, 2, 3]).draft(4)).toBeUndefined()
    expect(drafterOf([1, 1]).draft(0)).toBeUndefined()
  })

  it('are as many tokens as are wanted at most, each of them a token of the texts, and the match is what it says', () => {
    const anyText = fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 60 })
    fc.assert(fc.property(anyText, anyText, fc.integer({ min: 1, max: 6 }), (text, before, count) => {
      const draft = drafterOf(text, before).draft(count)
      if (draft === undefined) return
      const { tokens, source, matched } = draft
      expect(tokens.length).toBeGreaterThan(0)
      expect(tokens.length).toBeLessThanOrEqual(count)
      const found = [...text.slice(-matched), tokens[0]!].join('-')
      expect(`-${(source === 'text' ? text : before).join('-')}-`).toContain(`-${found}-`)
    }))
  })
})
