import { describe, expect, it } from 'vitest'
import { modelDirectory } from '../../../../src/cli/demo/federation.ts'
import { loadTokenizer } from '../../../../src/model/text/load.ts'
import { byteVocabulary } from '../../../../src/model/text/structured-output/byte-vocabulary.ts'
import { byteTokenizer } from '../../../helpers/byte-tokenizer.ts'

/** Returns the bytes that letters of a byte-level vocabulary stand for. */
function bytesOf (letters: string): number[] {
  const byte = new Map(byteVocabulary(byteTokenizer([], {}, []), 256).map((letter, i) => [letter, i]))
  return [...letters].map((letter) => byte.get(letter)!)
}

describe('the bytes of tokens', () => {
  it('each byte of a byte-level vocabulary is itself, and special tokens are none', () => {
    const vocabulary = byteVocabulary(byteTokenizer(['<|end|>'], { eos_token: '<|end|>' }, ['<|end|>']), 260)
    expect(new Set(vocabulary.slice(0, 256)).size).toBe(256)
    expect(vocabulary[0x41]).toBe('A')
    expect(vocabulary[0x20]).toBe('Ġ')
    expect(vocabulary.slice(256)).toEqual(['', '', '', ''])
  })

  it('the bytes of the tokens of a text are those of the text, with parts of characters', async () => {
    const tokenizer = await loadTokenizer(modelDirectory)
    const vocabulary = byteVocabulary(tokenizer, 2048)
    const text = 'A café, "né" \t 😀 {"a": [1]}\n'
    const ids = tokenizer.encode(`a${text}`, { addSpecialTokens: false })
    expect(Buffer.from(ids.flatMap((id) => bytesOf(vocabulary[id]!))).toString()).toBe(`a${text}`)
  })
})
