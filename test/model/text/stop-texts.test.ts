import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { StopTexts } from '../../../src/model/text/stop-texts.ts'

/** What the pieces come to: the text that was given out, and the stop text that ended it. */
function pass (pieces: readonly string[], stops: readonly string[]): { text: string, stop?: string | undefined } {
  const looking = new StopTexts(stops)
  let text = ''
  for (const piece of pieces) {
    const passed = looking.push(piece)
    text += passed.text
    if (passed.stop !== undefined) return { text, stop: passed.stop }
  }
  return { text: text + looking.end(), stop: undefined }
}

/** Where a text ends, looked for in the whole of it. */
function plainly (text: string, stops: readonly string[]): { text: string, stop?: string | undefined } {
  for (let end = 1; end <= text.length; end++) {
    const found = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)[0]
    if (found !== undefined) return { text: text.slice(0, end - found.length), stop: found }
  }
  return { text, stop: undefined }
}

describe('stop texts', () => {
  it('end a text at the same place however it is cut into pieces', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 8 })
    const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 }), { maxLength: 4 })
    fc.assert(fc.property(fc.array(letters, { maxLength: 8 }), stops, (pieces, each) => {
      expect(pass(pieces, each)).toEqual(plainly(pieces.join(''), each))
    }))
  })

  it('hold back no more than what may be the beginning of one', () => {
    const looking = new StopTexts(['\n\nQ:'])
    expect(looking.push('a\n').text).toBe('a')
    expect(looking.push('b\n').text).toBe('\nb')
    expect(looking.push('\nQ').text).toBe('')
    expect(looking.push('R').text).toBe('\n\nQR')
    expect(looking.end()).toBe('')
  })
})
