import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  judgeTokens,
  MAX_WITHHOLD_FILE_CHARACTERS,
  parseList,
  parseWithholding,
  rulesWithoutData,
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

describe('judging a text that may go on', () => {
  const judged = async (given: string, texts: readonly string[], list = ''): Promise<string> => {
    const parsed = rulesWithoutData(await parseWithholding(given, async () => await Promise.resolve(list)))
    return judgeTokens(texts, parsed).fates.map((fate) => fate[0]).join('')
  }

  it.each<[string, string, string[], string]>([
    ['capitals', '', ['The', ' girl', ' L'], 'wsw'],
    ['capitals', '', ['a', ' I'], 'sw'],
    ['names', '', ['a', ' Li', 'ly', "'", 's', ' dog', '.'], 'swwwwss'],
    ['numbers', '', ['room', ' ', '1', '2', 'b', ' is'], 'sswwws'],
    ['numbers', '', [' covid', '1', '9'], 'www'],
    ['list', 'lily', [' my', ' li'], 'sw'],
    ['list', 'lily', [' my', ' li', 'ke'], 'sss'],
    ['list', 'lily', [' my', ' li', 'ly', ' is'], 'swws'],
    ['list', '/x+/', [' my', ' dog'], 'sw']
  ])('%s %s: %j', async (given, list, texts, expected) => {
    // Both `withheld` and `waits` begin with a w: neither is sent.
    expect(await judged(given, texts, list)).toBe(expected)
  })

  it('waits for the pronoun to become a word or not, for a pattern, and for the rest of a character', () => {
    const capitals: WithholdRule[] = [{ kind: 'capitals' }]
    expect(judgeTokens([' I'], capitals).fates).toEqual(['waits'])
    expect(judgeTokens([' I', ' am'], capitals).fates).toEqual(['sent', 'sent'])
    expect(judgeTokens([' I', 't'], capitals).fates).toEqual(['withheld', 'withheld'])
    expect(judgeTokens([' dog'], [parseList('/d.*/', 'list')]).fates).toEqual(['waits'])
    expect(judgeTokens([' dog', ' '], [parseList('/d.*/', 'list')]).fates).toEqual(['withheld', 'sent'])
    expect(judgeTokens([' a ', '', '\ufffd'], capitals)).toEqual({ fates: ['sent', 'waits', 'waits'], openFrom: 1 })
  })

  it('agrees with what is marked of the whole text, wherever it was cut before', () => {
    const list: WithholdRule[] = [parseList('euros\nlily', 'list'), { kind: 'capitals' }]
    const plain = fc.array(fc.constantFrom('lily', 'Lily', 'like', 'lilypad', 'euro', 'euros', 'I', 'It', 'dog', '…', 'x. y')).map((words) => words.join(' '))
    fc.assert(fc.property(plain, fc.array(fc.nat(200), { maxLength: 6 }), (whole, places) => {
      const texts = cut(`${whole} `, places)
      const marks = withheldTokens(texts, list, statisticsOf(whole))
      for (let length = 1; length <= texts.length; length++) {
        const { fates } = judgeTokens(texts.slice(0, length), list)
        // What a part of the text says for sure is so in the whole: nothing is sent that is withheld in the end, but for signs.
        for (const [i, fate] of fates.entries()) if (fate === 'sent' && /[\p{L}\p{N}]/u.test(texts[i]!)) expect(marks[i]).toBe(false)
      }
    }))
  })

  it('refuses a rule that needs a data set, in one line', async () => {
    expect(() => rulesWithoutData([{ kind: 'rare', share: 0.1 }])).toThrow('rare:SHARE needs data whose words are counted')
    expect(rulesWithoutData(await parseWithholding('names', never))).toEqual([{ kind: 'capitals' }])
  })
})
