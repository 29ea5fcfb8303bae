import fc from 'fast-check'
import { expect, it } from 'vitest'
import { byteCharacters } from '../../../../src/model/text/huggingface-decoder.ts'
import { Utf8Tokens } from '../../../../src/model/text/structured-output/utf8-tokens.ts'

const letters = new Map([...byteCharacters].map(([letter, byte]) => [byte, letter]))
/** A token for each byte, in their order. */
const tokens = new Utf8Tokens(Array.from({ length: 256 }, (_, byte) => letters.get(byte)!))

function allows (place: typeof tokens.start, id: number): boolean {
  const mask = new Int32Array(8).fill(-1)
  tokens.restrict(mask, place)
  return ((mask[id >>> 5]! >>> (id & 31)) & 1) === 1
}

it('any text of allowed bytes that ends where a character does is UTF-8', () => {
  fc.assert(fc.property(fc.array(fc.nat(), { minLength: 1, maxLength: 40 }), (choices) => {
    let place = tokens.start
    const bytes: number[] = []
    for (let i = 0; i < choices.length || place !== tokens.start; i++) {
      const allowed = Array.from({ length: 256 }, (_, id) => id).filter((id) => allows(place, id))
      const id = allowed[(choices[i] ?? 0) % allowed.length]!
      bytes.push(id)
      place = tokens.after(place, id)
    }
    expect(() => new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(bytes))).not.toThrow()
  }))
})

it('every byte of every character is allowed', () => {
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => {
    let place = tokens.start
    for (const byte of new TextEncoder().encode(text.toWellFormed())) {
      expect(allows(place, byte)).toBe(true)
      place = tokens.after(place, byte)
    }
    expect(place).toBe(tokens.start)
  }))
})
