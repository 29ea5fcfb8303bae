import { describe, expect, it } from 'vitest'
import { markedText, PreviewView } from '../../../src/cli/views/preview-view.ts'
import { recordedTerminal } from '../helpers.ts'

const token = (text: string, counted: boolean): { id: number, text: string, counted: boolean } => ({ id: 1, text, counted })
const tokens = [token('Hi', false), token('\n', false), token(' Good', true), token(' day', true), token('</s>', true)]
const done = { type: 'done', packing: 'packed', maxTokens: 32, skipped: 1, skippedLines: [{ line: 1, reason: 'is not valid JSON' }] } as const

describe('a preview of records', () => {
  it('marks the tokens that count', () => {
    expect(markedText(tokens)).toBe('Hi│\\n⟦ Good│ day│</s>⟧')
    expect(markedText([token('a', true), token('b', false), token('c', true)])).toBe('⟦a⟧b⟦c⟧')
    expect(markedText([])).toBe('')
  })

  it('marks the tokens that rules withhold, and tells their share', () => {
    expect(markedText([{ ...token('Hi', false), withheld: true }, { ...token(' Lily', true), withheld: true }, token('!', true)]))
      .toBe('⟪Hi⟫⟦⟪ Lily⟫│!⟧')
    const { terminal, err } = recordedTerminal(false)
    new PreviewView(terminal, false).show({ ...done, withheld: { tokens: 80, withheldTokens: 20 } })
    expect(err.text).toContain("The rules withhold what stands between ⟪ and ⟫: 20 of the data's 80 tokens, 25%\n")
  })

  it('shows no character that would steer the terminal', () => {
    expect(markedText([token('a\u001b[2J\r\u202e\u2028', false)])).toBe('a\\u001b[2J\\r\\u202e\\u2028')
  })

  it('writes records to standard output, and remarks beside them', () => {
    const { terminal, out, err } = recordedTerminal(false)
    const view = new PreviewView(terminal, false)
    view.show({ type: 'record', line: 2, tokens, countedTokens: 3, notice: 'has name, which the chat template does not write' })
    view.show(done)
    expect(out.text).toBe('line 2: 5 tokens, 3 counted\nHi│\\n⟦ Good│ day│</s>⟧\n')
    expect(err.text).toBe([
      'line 2 has name, which the chat template does not write',
      'line 1 is not valid JSON',
      'The loss counts what stands between ⟦ and ⟧. Training puts records one after another into sequences of 32 tokens',
      ''
    ].join('\n'))
  })

  it('writes events as JSON for programs', () => {
    const { terminal, out, err } = recordedTerminal(false)
    new PreviewView(terminal, true).show(done)
    expect([JSON.parse(out.text), err.text]).toEqual([done, ''])
  })
})
