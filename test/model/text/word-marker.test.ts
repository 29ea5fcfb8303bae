import { describe, expect, it } from 'vitest'
import { parseWithholding, type WithholdRule } from '../../../src/model/privacy/withholding.ts'
import { wordTexts, WordMarker } from '../../../src/model/text/word-marker.ts'
import { wordTokenizer } from '../../helpers/word-tokenizer.ts'

const tokenizer = wordTokenizer(['<unk>', '<S>', '</S>', ' User', ' the', ' Lily', ' dog', ' 12'])
const ids = Int32Array.of(1, 3, 4, 5, 6, 7, 2)

async function marks (given: string, texts: readonly Int32Array[] = [ids]): Promise<string> {
  const marker = new WordMarker(tokenizer, await parseWithholding(given, async () => await Promise.resolve('')))
  for (const text of texts) marker.learn(text)
  return [...marker.mark(ids)].join('')
}

describe('marking tokens of words', () => {
  it('never marks special tokens, and words of a template as any others', async () => {
    expect(await marks('capitals')).toBe('0101000')
    expect(await marks('capitals,numbers')).toBe('0101010')
    const everything: WithholdRule[] = [{ kind: 'list', words: new Set(), patterns: [/^.+$/u] }]
    expect([...new WordMarker(tokenizer, everything).mark(ids)].join('')).toBe('0111110')
  })

  it('looks at all texts for what is a name or rare', async () => {
    // At the beginning of a text a capital says nothing.
    expect(await marks('names', [Int32Array.of(1, 5, 6)])).toBe('0000000')
    expect(await marks('names', [Int32Array.of(1, 4, 5)])).toBe('0001000')
    const common = Int32Array.from({ length: 40 }, () => 4)
    expect(await marks('rare:10%', [ids, common])).toBe('0101110')
  })

  it('counts what it marked', () => {
    const marker = new WordMarker(tokenizer, [{ kind: 'capitals' }])
    marker.mark(ids)
    marker.mark(ids)
    expect(marker.totals).toEqual({ tokens: 14, words: 10, withheld: 4 })
  })

  it('finds no word across a special token', () => {
    expect(wordTexts([3, 1, 4], tokenizer)[1]).toBe('\n')
  })
})
