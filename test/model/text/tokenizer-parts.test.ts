import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { huggingFaceEngine } from '../../../src/model/text/huggingface-engine.ts'
import { Tokenizer } from '../../../src/model/text/tokenizer.ts'
import { readGolden } from '../../helpers/golden.ts'

interface Case {
  readonly name: string
  readonly ids: number[][]
  readonly decoded: string[]
  /** What the file has other than the base has. */
  readonly changed: object
}

const { base, texts, cases } = readGolden<{
  readonly base: object
  readonly texts: readonly string[]
  readonly cases: readonly Case[]
}>('tokenizer_parts.json')

describe('issue 9, A4: a tokenizer.json', () => {
  it.each(cases.map((each) => [each.name, each] as const))('is read as the Python library reads it: %s', (_, { ids, decoded, changed }) => {
    const engine = huggingFaceEngine({ ...base, ...changed })
    expect(texts.map((text) => engine.encode(text, false))).toEqual(ids)
    expect(ids.map((each) => engine.decode(each, true))).toEqual(decoded)
    const tokenizer = new Tokenizer(engine, {})
    for (const [i, each] of ids.entries()) {
      const stream = tokenizer.createDecodeStream()
      expect([...each.map((id) => stream.push(id)), stream.flush()].join('')).toBe(decoded[i])
    }
  })

  it.each([
    [{ pre_tokenizer: { type: 'Split', pattern: { Regex: 'a' }, behavior: 'Sideways', invert: false } }, 'the behavior Sideways'],
    [{ normalizer: { type: 'Precompiled', precompiled_charsmap: '' } }, 'Precompiled']
  ])('with what is not read so is refused by name: %s', (part, name) => {
    expect(() => huggingFaceEngine({ ...base, ...part })).toThrow(name)
  })
})

describe('issue 9, A32: a founder cannot hang a client with a tokenizer', () => {
  it('whose replacements grow without bound', () => {
    const normalizers = Array.from({ length: 40 }, () => ({ type: 'Replace', pattern: { String: 'a' }, content: 'aa' }))
    expect(() => huggingFaceEngine({ ...base, normalizer: { type: 'Sequence', normalizers } })).toThrow('256 times')
  })

  it.each([
    ['a pattern that divides', { pre_tokenizer: { type: 'Split', pattern: { Regex: '(a+)+b' }, behavior: 'Isolated', invert: false } }],
    ['one of several', { pre_tokenizer: { type: 'Sequence', pretokenizers: [
      { type: 'Split', pattern: { Regex: '(a|a)*b' }, behavior: 'Isolated', invert: false }, { type: 'Digits', individual_digits: true }
    ] } }],
    ['a pattern that replaces', { normalizer: { type: 'Replace', pattern: { Regex: '(a|aa)+b' }, content: '' } }]
  ])('by %s, which RE2 matches where it takes exponential time', (_, part) => {
    const text = `${'a'.repeat(60)}c`
    const plain = huggingFaceEngine({ ...base, ...('pre_tokenizer' in part ? { pre_tokenizer: null } : {}) }).encode(text, false)
    const engine = huggingFaceEngine({ ...base, ...part }, {}, { timeoutMs: 2_000, msPerCharacter: 0 })
    expect(engine.encode(text, false)).toEqual(plain)
    expect(engine.encode(`${text}ab`, false)).not.toEqual([])
  })

  it('by a pattern in what it decodes', () => {
    const engine = huggingFaceEngine(
      { ...base, decoder: { type: 'Sequence', decoders: [{ type: 'Fuse' }, { type: 'Replace', pattern: { Regex: '(a|a)*b' }, content: '' }] } },
      {}, { timeoutMs: 2_000, msPerCharacter: 0 }
    )
    const ids = engine.encode('a'.repeat(60), false)
    expect(engine.decode(ids, false)).toContain('a'.repeat(60))
  })

  it('by a pattern that RE2 does not have, which is given up by name', () => {
    const part = { pre_tokenizer: { type: 'Split', pattern: { Regex: '(a+)+b(?!c)' }, behavior: 'Isolated', invert: false } }
    const engine = huggingFaceEngine({ ...base, ...part }, {}, { timeoutMs: 1_000, msPerCharacter: 0 })
    expect(() => engine.encode('a'.repeat(60), false)).toThrow('took longer than')
  })
})

describe('issue 9, A1: a stream', () => {
  const levels = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true }
  const wordPiece = { type: 'WordPiece', prefix: '##', cleanup: true }
  const decoders = {
    ByteLevel: levels,
    'WordPiece with clean-up': wordPiece,
    'BPEDecoder, which ends words': { type: 'BPEDecoder', suffix: 'a' },
    'CTC, which joins repeated tokens': { type: 'CTC', pad_token: 'a', word_delimiter_token: '|', cleanup: true },
    'a replacement across tokens': { type: 'Sequence', decoders: [{ type: 'Fuse' }, { type: 'Replace', pattern: { String: 'ab' }, content: '' }] },
    'an end that is stripped': { type: 'Sequence', decoders: [{ type: 'Fuse' }, { type: 'Strip', content: 'a', start: 0, stop: 2 }] }
  }

  it.each(Object.entries(decoders))('is the decoding of all its ids, whatever they are: %s', (_, decoder) => {
    const tokenizer = new Tokenizer(huggingFaceEngine({ ...base, decoder }, { clean_up_tokenization_spaces: true }))
    fc.assert(fc.property(fc.array(fc.oneof(fc.nat(263), fc.constantFrom(32, 39, 44, 46, 97, 98, 115, 220)), { maxLength: 30 }), (ids) => {
      const stream = tokenizer.createDecodeStream()
      expect(ids.map((id) => stream.push(id)).join('') + stream.flush()).toBe(tokenizer.decode(ids))
    }), { numRuns: 100 })
  })

  it.each([true, undefined])('keeps the spaces before punctuation, where clean_up_tokenization_spaces is %s', (cleanUp) => {
    const tokenizer = new Tokenizer(huggingFaceEngine(base, cleanUp === undefined ? {} : { clean_up_tokenization_spaces: cleanUp }))
    const stream = tokenizer.createDecodeStream()
    const ids = tokenizer.encode("print('a', 'status') . n't")
    expect(ids.map((id) => stream.push(id)).join('') + stream.flush()).toBe("print('a', 'status') . n't")
  })
})

describe('a model of whole words', () => {
  it('gives words outside its vocabulary the id of the unknown token', () => {
    const engine = huggingFaceEngine({
      added_tokens: [], normalizer: null, pre_tokenizer: { type: 'WhitespaceSplit' }, post_processor: null, decoder: null,
      model: { type: 'WordLevel', vocab: { unk: 0, a: 1 }, unk_token: 'unk' }
    })
    expect(engine.encode('b a c', false)).toEqual([0, 1, 0])
  })
})
