import { describe, expect, it } from 'vitest'
import { errorLine, exitCodeOf, InterruptedError } from '../../src/cli/exit.ts'
import { MidspanError, UsageError } from '../../src/errors.ts'

describe('how failures are told', () => {
  it('says what, why and what to do on one line', () => {
    expect(errorLine(new UsageError('there is no\n  model', 'check\nthe path'))).toBe('midspan: there is no model (check the path)')
  })

  it('leaves the brackets out where there is nothing to do', () => {
    expect(errorLine(new MidspanError('E_X', 'it broke'))).toBe('midspan: it broke')
  })

  it('says which file the system refuses, and what to do', () => {
    const error = Object.assign(new Error('ENOTDIR'), { code: 'ENOTDIR', errno: -20, path: '/etc/passwd/x', syscall: 'open' })
    expect(errorLine(error)).toBe('midspan: /etc/passwd/x: not a directory (check the path)')
    expect(exitCodeOf(error)).toBe(2)
  })

  it('owns up to what was not expected', () => {
    expect(errorLine(new TypeError('x is undefined'))).toMatch(/^midspan: x is undefined \(unexpected: .*--debug/)
  })

  it.each([['E_USAGE', 2], ['E_NO_DAEMON', 3], ['E_SETTING_REFUSED', 4], ['E_CHARTER_SIGNATURE', 4], ['E_SOMETHING_ELSE', 1]])(
    'ends %s with %i',
    (code, exit) => {
      expect(exitCodeOf(new MidspanError(code, 'x'))).toBe(exit)
    }
  )

  it('ends an interruption with 130, and what is no Midspan error with 1', () => {
    expect([exitCodeOf(new InterruptedError()), exitCodeOf(new Error('x')), exitCodeOf('x')]).toEqual([130, 1, 1])
  })
})
