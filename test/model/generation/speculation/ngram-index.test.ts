import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MAX_MATCH_TOKENS, NgramIndex } from '../../../../src/model/generation/speculation/ngram-index.ts'

const anyText = fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 40 })

function indexOf (texts: readonly (readonly number[])[], capacity = 256): NgramIndex {
  const index = new NgramIndex(capacity)
  for (const [i, text] of texts.entries()) {
    if (i > 0) index.endText()
    for (const token of text) index.add(token)
  }
  return index
}

/** Returns the latest occurrence in one of the texts of the longest run of last tokens, with what followed it, by looking everywhere. */
function searched (texts: readonly (readonly number[])[], last: readonly number[]): { length: number, rest: number[] } | undefined {
  for (let length = Math.min(MAX_MATCH_TOKENS, last.length); length > 0; length--) {
    const wanted = last.slice(-length).join()
    for (const text of texts.toReversed()) {
      for (let start = text.length - length - 1; start >= 0; start--) {
        if (text.slice(start, start + length).join() === wanted) return { length, rest: text.slice(start + length) }
      }
    }
  }
  return undefined
}

describe('an index of n-grams', () => {
  it('finds what a search finds: the latest occurrence of the longest run, and what followed in the same text', () => {
    fc.assert(fc.property(fc.array(anyText, { maxLength: 4 }), anyText, (texts, last) => {
      const index = indexOf(texts)
      const [found, wanted] = [index.find(last), searched(texts, last)]
      expect(found?.length).toBe(wanted?.length)
      if (found !== undefined) expect(index.from(found.next, 100)).toEqual(wanted?.rest)
    }))
  })

  it('never gives what it does not hold, however full it is and whatever hashes are equal', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 30, maxLength: 300 }), (tokens) => {
      const index = indexOf([tokens], 16)
      const held = tokens.slice(-16).join()
      for (let end = 1; end <= tokens.length; end++) {
        const last = tokens.slice(0, end)
        const found = index.find(last)
        if (found === undefined) continue
        const there = [...last.slice(-found.length), ...index.from(found.next, 100)].join()
        expect(held.endsWith(there)).toBe(true)
      }
    }))
  })

  it('finds runs of MAX_MATCH_TOKENS at most, and nothing before anything was added', () => {
    const text = Array.from({ length: MAX_MATCH_TOKENS + 3 }, (_, i) => i)
    expect(indexOf([[...text, 7]]).find(text)).toMatchObject({ length: MAX_MATCH_TOKENS })
    expect(indexOf([]).find(text)).toBeUndefined()
    expect(indexOf([text]).find([])).toBeUndefined()
  })
})
