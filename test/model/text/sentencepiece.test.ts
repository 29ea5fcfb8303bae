import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DecodeStream } from '../../../src/model/text/decode-stream.ts'
import { TokenizerError } from '../../../src/model/text/errors.ts'
import { parseModelFile } from '../../../src/model/text/sentencepiece/file.ts'
import { SentencePieceModel } from '../../../src/model/text/sentencepiece/model.ts'
import { readGolden } from '../../helpers/golden.ts'

interface Golden {
  readonly encoded: ReadonlyArray<{ readonly text: string, readonly ids: number[], readonly decoded: string }>
  readonly decoded: ReadonlyArray<{ readonly ids: number[], readonly text: string }>
}

const golden = readGolden<Record<string, Golden>>('sentencepiece/golden.json')
const names = Object.keys(golden)

function bytesOf (name: string): Uint8Array {
  return readFileSync(new URL(`../../reference/sentencepiece/${name}.model`, import.meta.url))
}

function model (name: string): SentencePieceModel {
  return new SentencePieceModel(parseModelFile(bytesOf(name), name), name)
}

describe.each(names)('the SentencePiece model %s', (name) => {
  it('divides texts as the reference library does', () => {
    const encoder = model(name)
    for (const { text, ids } of golden[name]!.encoded) expect([text, encoder.encode(text)]).toEqual([text, ids])
  })

  it('gives back the texts that the reference library gives back, also of ids in any order', () => {
    const decoder = model(name)
    for (const { ids, decoded } of golden[name]!.encoded) expect(decoder.decode(ids)).toBe(decoded)
    for (const { ids, text } of golden[name]!.decoded) expect([ids, decoder.decode(ids)]).toEqual([ids, text])
  })

  it('streams exactly the text that the ids decode to', () => {
    const decoder = model(name)
    fc.assert(fc.property(fc.array(fc.nat(decoder.pieces.length - 1), { maxLength: 30 }), (ids) => {
      const stream = new DecodeStream((some) => decoder.decode(some), [], true)
      expect(ids.map((id) => stream.push(id)).join('') + stream.flush()).toBe(decoder.decode(ids))
    }), { numRuns: 100 })
  })
})

it('a model with byte pieces and no normalisation gives back any text', () => {
  const llama = model('llama')
  const characters = fc.array(
    fc.integer({ min: 0, max: 0x10ffff }).filter((point) => point !== 0x2581 && (point < 0xd800 || point > 0xdfff)),
    { maxLength: 30 }
  )
  fc.assert(
    fc.property(characters, (points) => {
      const text = String.fromCodePoint(...points)
      expect(llama.decode(llama.encode(text))).toBe(text)
    }),
    { numRuns: 200 }
  )
})

it('half a surrogate pair is read as U+FFFD', () => {
  const llama = model('llama')
  expect(llama.encode('a\ud800b')).toEqual(llama.encode('a\ufffdb'))
})

describe('a model file', () => {
  it('is refused by name when it is something else', () => {
    expect(() => parseModelFile(Buffer.from('IQ== 0\nIg== 1\n'), 'dir/tokenizer.model')).toThrow(
      'dir/tokenizer.model is no SentencePiece model'
    )
    expect(() => parseModelFile(new Uint8Array(), 'dir/tokenizer.model')).toThrow('is no SentencePiece model')
  })

  it('either loads and encodes, or throws TokenizerError, whatever its bytes', () => {
    const good = bytesOf('bpe-rules')
    fc.assert(fc.property(fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 6 }), fc.nat(60), (changes, cut) => {
      const bytes = good.slice(0, good.byteLength - cut)
      for (const [at, value] of changes) bytes[at % bytes.byteLength] = value
      try {
        const broken = new SentencePieceModel(parseModelFile(bytes, 'f'), 'f')
        broken.decode(broken.encode('the bridge  ﬁne a\u0300\u0301 über'))
      } catch (error) {
        expect(error).toBeInstanceOf(TokenizerError)
      }
    }), { numRuns: 150 })
  })

  it.each([
    ['two pieces are the same', [[0x0a, 1, 0x61, 0x18, 1], [0x0a, 1, 0x61, 0x18, 2]], 'the same'],
    ['no piece is the unknown one', [[0x0a, 1, 0x61]], 'no unknown piece'],
    ['a piece is of no known type', [[0x0a, 1, 0x61, 0x18, 9]], 'piece 0 is impossible'],
    ['a piece is empty', [[0x18, 2]], 'piece 0 is impossible']
  ])('is refused when %s', (_, pieces, message) => {
    const bytes = Uint8Array.from(pieces.flatMap((piece) => [0x0a, piece.length, ...piece]))
    expect(() => new SentencePieceModel(parseModelFile(bytes, 'f'), 'f')).toThrow(message)
    expect(() => new SentencePieceModel(parseModelFile(bytes, 'f'), 'f')).toThrow(TokenizerError)
  })
})
