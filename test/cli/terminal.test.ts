import { describe, expect, it } from 'vitest'
import { bytes, digits, endSpans, seconds, table } from '../../src/cli/format.ts'
import { recordedTerminal } from './helpers.ts'

describe('what is printed', () => {
  it('has colour on a terminal alone, and none where NO_COLOR is set', () => {
    expect(recordedTerminal(true).terminal.bold('x')).toBe('\u001b[1mx\u001b[22m')
    expect(recordedTerminal(false).terminal.bold('x')).toBe('x')
    expect(recordedTerminal(true, { NO_COLOR: '1' }).terminal.dim('x')).toBe('x')
    expect(recordedTerminal(true, { NO_COLOR: '' }).terminal.dim('x')).not.toBe('x')
  })

  it('keeps text of others from steering a terminal, and leaves it alone elsewhere', () => {
    const hostile = 'a\u001b]0;owned\u0007\tb\r\u202ec\n\u009bd'
    const [shown, piped] = [recordedTerminal(true), recordedTerminal(false)]
    shown.terminal.writeForeign(hostile)
    piped.terminal.writeForeign(hostile)
    expect(shown.out.text).toBe('a]0;owned\tbc\nd')
    expect(piped.out.text).toBe(hostile)
  })

  it('does not redraw on a dumb terminal', () => {
    expect(recordedTerminal(true, { TERM: 'dumb' }).terminal.interactive).toBe(false)
  })

  it.each([[0, '0 B'], [1023, '1023 B'], [1536, '1.5 KiB'], [64 * 2 ** 20, '64.0 MiB'], [2 ** 50, '1024.0 TiB']])(
    'shows %i bytes as %s',
    (count, text) => {
      expect(bytes(count)).toBe(text)
    }
  )

  it.each([[0.04, '0.0s'], [4.25, '4.3s'], [59.4, '59s'], [65, '1m05s'], [3725, '1h02m']])('shows %f seconds as %s', (value, text) => {
    expect(seconds(value)).toBe(text)
  })

  it.each([[1234.5, '1235'], [0.012345, '0.0123'], [12.34, '12.3'], [NaN, 'NaN']])('shows %f as %s', (value, text) => {
    expect(digits(value)).toBe(text)
  })

  it.each([[1, 2, 'the first block and the last 2 blocks'], [0, 1, 'the embedding alone and the last block'], [
    3,
    0,
    'the first 3 blocks and the head alone'
  ]])('names spans of %i and %i blocks', (inputBlocks, outputBlocks, text) => {
    expect(endSpans({ inputBlocks, outputBlocks })).toBe(text)
  })

  it('lines columns up', () => {
    expect(table([['a', 'bb'], ['ccc', 'd']])).toEqual(['a    bb', 'ccc  d'])
  })
})
