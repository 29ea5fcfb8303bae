import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { LinearPattern, placesOf } from '../../../src/model/text/linear-pattern.ts'

/** Parts of patterns that RE2 and JavaScript both have, some of them read otherwise by the one than by the other. */
const atom = fc.constantFrom(
  'a', 'b', 'é', '桥', '😀', '.', '\\s', '\\S', '\\d', '\\n', '\\.', '\\p{L}', '\\p{N}', '\\p{Lu}', '\\p{White_Space}', '\\P{White_Space}',
  '[ab]', '[^a]', '[\\s\\S]', '[\\sa]', '[\\p{L}\\p{White_Space}]', '[^\\p{White_Space}\\p{L}]', '[.]', '[\\]a]', '\\u00e9', '[\\u4e00-\\u9fff]', '\\u{1F600}', ' ?\\p{L}+'
)
const pattern = fc.letrec<{ any: string }>((tie) => ({
  any: fc.oneof(
    { maxDepth: 3 },
    atom,
    fc.tuple(tie('any'), tie('any')).map(([first, second]) => first + second),
    fc.tuple(tie('any'), tie('any')).map(([first, second]) => `(?:${first}|${second})`),
    fc.tuple(tie('any').filter((inner) => !new RegExp(`^(?:${inner})$`, 'u').test('')), fc.constantFrom('*', '+', '?', '{1,3}', '{2}', '*?', '+?'))
      .map(([inner, times]) => `(?:${inner})${times}`)
  )
})).any
const text = fc.array(fc.constantFrom(
  'a', 'b', 'A', 'é', '桥', '😀', '.', ' ', '\n', '\r', '\t', '\u2028', '\u0085', '\ufeff', '\u00a0', '1', '²', ']', '\\'
), { maxLength: 12 }).map((units) => units.join(''))

describe('issue 9, 32: a pattern that takes time that grows with the text alone', () => {
  it('finds what JavaScript finds', () => {
    fc.assert(fc.property(pattern, text, fc.constantFrom('gu', 'giu'), (source, given, flags) => {
      const linear = LinearPattern.from(new RegExp(source, flags))
      expect(linear).toBeDefined()
      expect([...linear!.matches(given)]).toEqual([...placesOf(new RegExp(source, flags), given)])
      expect(linear!.test(given)).toBe(new RegExp(source, flags).test(given))
    }), { numRuns: 500 })
  })

  it('replaces each match by a text as it stands, or by what a function returns', () => {
    const linear = LinearPattern.from(/a+/gu)!
    expect('baab a'.replaceAll(linear as unknown as RegExp, '$&')).toBe('b$&b $&')
    expect('baab a'.replace(linear as unknown as RegExp, (match) => match.toUpperCase())).toBe('bAAb A')
  })

  it.each(['(a+)+b', '(a|a)*b', '(a|aa)+$', '(x+x+)+y', '([a-z]+)*\\d'])('does not backtrack: %s', (source) => {
    expect(LinearPattern.from(new RegExp(source, 'gu'))!.test('a'.repeat(20_000))).toBe(source.endsWith('$'))
  })

  it.each(['a(?=b)', '(?!a)b', '(a)\\1', '(?<n>a)\\k<n>'])('is none where RE2 cannot match it: %s', (source) => {
    expect(LinearPattern.from(new RegExp(source, 'gu'))).toBeUndefined()
  })
})
