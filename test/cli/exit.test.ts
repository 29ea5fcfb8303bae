import { readdir, readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { errorLine, EXIT, EXIT_MEANINGS, exitCodeOf, InterruptedError } from '../../src/cli/exit.ts'
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

  it.each([['SIGINT', 130], ['SIGTERM', 143], ['SIGHUP', 129], ['SIGPIPE', 141]] as const)('ends what %s stopped with %i', (by, code) => {
    expect(exitCodeOf(new InterruptedError(by))).toBe(code)
  })

  it('has a meaning for each code of an error, but for those that nobody expects', async () => {
    const source = new URL('../../src/', import.meta.url)
    const texts = await Promise.all((await readdir(source, { recursive: true })).filter((path) => path.endsWith('.ts'))
      .map(async (path) => await readFile(new URL(path, source), 'utf8')))
    const codes = new Set(texts.flatMap((text) => [...text.matchAll(/(?:super\(|code = )'(E_[A-Z_]+)'/g)].map(([, code]) => code!)))
    const unexpected = [...codes].filter((code) => exitCodeOf(new MidspanError(code, 'x')) === EXIT.unexpected && code !== InterruptedError.code)
    expect(unexpected.toSorted()).toEqual([
      // Defects and arithmetic that overflows.
      'E_AUDIT', 'E_CONTRIBUTION_RANGE', 'E_DEVICE', 'E_GRADIENT_OVERFLOW', 'E_GRAPH', 'E_STEP_OVERFLOW',
      // What servers say to each other, and what ends the demo.
      'E_DEMO_PROCESS', 'E_HANDOVER_CLAIM', 'E_NOT_COMPARABLE', 'E_REPLICA_GIVEN_UP', 'E_TOO_MANY_PASSES'
    ].toSorted())
  })

  it('documents every exit code, and what it asks a script to do', () => {
    expect(EXIT_MEANINGS.map(({ code }) => code).toSorted((a, b) => a - b)).toEqual(Object.values(EXIT).toSorted((a, b) => a - b))
    for (const { meaning, script } of EXIT_MEANINGS) expect(meaning !== '' && script !== '').toBe(true)
  })

  it('tells in docs/operations.md what each exit code asks a script to do', async () => {
    const text = await readFile(new URL('../../docs/operations.md', import.meta.url), 'utf8')
    const told = [...text.matchAll(/^\| ([\d, ]+) \| \S/gm)].flatMap(([, codes]) => codes!.split(',').map(Number))
    expect(told.toSorted((a, b) => a - b)).toEqual(Object.values(EXIT).toSorted((a, b) => a - b))
  })

  it('shows no invite, whoever puts one into a message', () => {
    const secret = `midspan:${'Ab3_-'.repeat(20)}`
    expect(errorLine(new UsageError(`${secret} is unknown`, `remove ${secret}`))).toBe('midspan: midspan:… is unknown (remove midspan:…)')
    expect(errorLine(new Error(secret))).not.toContain('Ab3')
  })
})
