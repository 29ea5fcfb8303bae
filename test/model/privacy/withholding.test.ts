import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  MAX_WITHHOLD_FILE_CHARACTERS,
  parseList,
  parseWithholding,
  withheldTokens,
  wordsOf,
  WordStatistics,
  type WithholdRule
} from '../../../src/model/privacy/withholding.ts'

const TEXT = 'Yesterday Lily met Dr. Okafor in Room 12b. She paid 186.50 euros; I think Lily\'s brother (a nurse) came too.'

function statisticsOf (...texts: string[]): WordStatistics {
  const statistics = new WordStatistics()
  for (const text of texts) statistics.add(text)
  return statistics
}

/** The words of a text of which every letter is marked, where each character is a token. */
function withheldWords (text: string, rules: readonly WithholdRule[], statistics = statisticsOf(text)): string[] {
  const marks = withheldTokens([...text], rules, statistics)
  return wordsOf(text).filter(({ start, end }) => marks.slice(start, end).every(Boolean)).map(({ word }) => word)
}

const never = (): Promise<string> => { throw new Error('no file is read') }

/** Cuts a text into pieces, some of which are empty. */
function cut (text: string, places: readonly number[]): string[] {
  const ends = [...places.map((place) => place % (text.length + 1)), text.length].sort((a, b) => a - b)
  return ends.map((end, i) => text.slice(i === 0 ? 0 : ends[i - 1], end))
}

const rules = fc.subarray<WithholdRule>(
  [{ kind: 'capitals' }, { kind: 'names' }, { kind: 'numbers' }, { kind: 'rare', share: 0.2 }, parseList('euros\n/b.*r/', 'list')],
  { minLength: 1 }
)
const text = fc.oneof(fc.string({ unit: 'grapheme', maxLength: 60 }), fc.array(fc.constantFrom(...TEXT.split(' '))).map((words) => words.join(' ')))

describe('withholding', () => {
  it.each<[string, string[]]>([
    ['capitals', ['Yesterday', 'Lily', 'Dr', 'Okafor', 'Room', 'She', 'Lily\'s']],
    ['names', ['Lily', 'Dr', 'Okafor', 'Room', 'Lily\'s']],
    ['numbers', ['12b', '186.50']],
    ['names,numbers', ['Lily', 'Dr', 'Okafor', 'Room', '12b', '186.50', 'Lily\'s']]
  ])('withholds whole words: %s', async (given, expected) => {
    expect(withheldWords(TEXT, await parseWithholding(given, never))).toEqual(expected)
  })

  it('withholds the words and the patterns of a file, in any case, with what is joined to them', async () => {
    const list = '# people\nlily\nEuros\n\n/\\d+b/\nJohn Smith\n'
    const given = await parseWithholding('words.txt', async (path) => await Promise.resolve(path === 'words.txt' ? list : ''))
    expect(withheldWords(TEXT, given)).toEqual(['Lily', '12b', 'euros', 'Lily\'s'])
    expect(withheldWords('smith and JOHN', given)).toEqual(['smith', 'JOHN'])
  })

  it('withholds words that come seldom in the whole data', async () => {
    const given = await parseWithholding('rare:1%', never)
    const statistics = statisticsOf('the cat '.repeat(200), 'Okafor')
    expect(withheldWords('The cat of Okafor', given, statistics)).toEqual(['of', 'Okafor'])
  })

  it('knows a name where it begins a sentence, once it stands in one elsewhere', async () => {
    const given = await parseWithholding('names', never)
    expect(withheldWords('Lily ran. Then she fell.', given)).toEqual([])
    expect(withheldWords('Lily ran. Then she fell.', given, statisticsOf('She met Lily.'))).toEqual(['Lily'])
  })

  it('depends on the text alone, and not on how it is cut into tokens: each token with a piece of a marked word is marked', () => {
    fc.assert(fc.property(text, rules, fc.array(fc.nat(), { maxLength: 12 }), (given, chosen, places) => {
      const statistics = statisticsOf(given)
      const letters = withheldTokens(given.split(''), chosen, statistics)
      let at = 0
      const pieces = cut(given, places)
      for (const [i, marked] of withheldTokens(pieces, chosen, statistics).entries()) {
        const end = at + pieces[i]!.length
        if (end > at) expect(marked).toBe(letters.slice(at, end).includes(true))
        at = end
      }
    }))
  })

  it('marks no word in part, and several rules what each of them marks', () => {
    fc.assert(fc.property(text, rules, (given, chosen) => {
      const statistics = statisticsOf(given)
      const marksOf = (some: readonly WithholdRule[]): boolean[] => withheldTokens(given.split(''), some, statistics)
      const marks = marksOf(chosen)
      for (const { start, end } of wordsOf(given)) expect(new Set(marks.slice(start, end)).size).toBe(1)
      const apart = chosen.map((rule) => marksOf([rule]))
      expect(marks).toEqual(marks.map((_, i) => apart.some((own) => own[i])))
    }))
  })

  it('marks a token without text as the character that it is a part of', () => {
    const statistics = statisticsOf('Ärzte')
    expect(withheldTokens(['', 'Ä', 'rz', 'te', ' ', ''], [{ kind: 'capitals' }], statistics)).toEqual([true, true, true, true, false, false])
  })

  it.each(['', 'names,', 'rare:0', 'rare:2', 'rare:x'])('refuses %j in one line', async (given) => {
    await expect(parseWithholding(given, never)).rejects.toMatchObject({ code: 'E_USAGE', next: expect.any(String) as string })
  })

  it('matches patterns in time that grows with the word, and refuses in one line those of which that is not so', () => {
    expect(withheldWords(`${'a'.repeat(50_000)} aab`, [parseList('/(a+)+b/', 'words.txt')])).toEqual(['aab'])
    for (const pattern of ['a(?=b)', '(a)\\1'])
      expect(() => parseList(`/${pattern}/`, 'words.txt')).toThrow(/^words\.txt, line 1: .* RE2 /)
  })

  it('refuses a file that names nothing, has a broken pattern, or is no list of words', () => {
    expect(() => parseList('# nobody\n\n', 'words.txt')).toThrow('names no word')
    expect(() => parseList('Lily\n/(/', 'words.txt')).toThrow('words.txt, line 2')
    expect(() => parseList('a'.repeat(MAX_WITHHOLD_FILE_CHARACTERS + 1), 'words.txt')).toThrow('at most')
  })
})
