import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { temporaryDirectory } from '../node/fixture.ts'
import { run } from './helpers.ts'
import { midspan } from './process.ts'

/** What every failure looks like: one line, with what to do in brackets. */
const ONE_LINE = /^midspan: [^\n]+ \([^\n]+\)\n$/

describe('the midspan process', () => {
  it('prints its version', async () => {
    const { code, out } = await midspan(['--version'])
    expect(code).toBe(0)
    expect(out).toMatch(/^\d+\.\d+\.\d+\n$/)
  })

  it('refuses in one line on standard error', async () => {
    const { code, out, err } = await midspan(['trian'])
    expect(err).toMatch(ONE_LINE)
    expect([code, out]).toEqual([2, ''])
  })

  it('shows a stack where a file asks for it', async () => {
    const file = join(await temporaryDirectory(), 'options.yaml')
    await writeFile(file, 'debug: true\nhome: /nowhere\n')
    const { err } = await midspan(['status', '--config', file])
    expect(err).toContain('no daemon runs in /nowhere')
    expect(err).toContain('    at ')
  })

  it('shows a stack when it is asked to', async () => {
    const { err } = await midspan(['train'], { MIDSPAN_DEBUG: '1' })
    expect(err.split('\n')[0]).toContain('--data is missing')
    expect(err).toContain('    at ')
  })
})

describe('the program', () => {
  it('prints help that names every command', async () => {
    const { code, out, err } = await run(['--help'])
    expect([code, err]).toEqual([0, ''])
    for (const name of ['init', 'daemon', 'invite', 'join', 'status', 'peers', 'train', 'evaluate', 'generate', 'export', 'leave']) {
      expect(out).toMatch(new RegExp(`^  ${name}\\b`, 'm'))
    }
  })

  it('prints the help of a command in groups, with defaults and examples', async () => {
    const { code, out } = await run(['train', '--help'])
    expect(code).toBe(0)
    for (const heading of ['Data:', 'Training:', 'Privacy:', 'Output:', 'Common options:', 'Examples:'])
      expect(out).toContain(`\n${heading}\n`)
    expect(out).toContain('(default: 100)')
  })

  it.each([
    [[], 'no command was given'],
    [['trian'], "unknown command 'trian'"],
    [['train', '--rond', '3'], "unknown option '--rond'"],
    [['train', '--rounds'], "option '--rounds <COUNT>' argument missing"],
    [['train'], '--data is missing'],
    [['train', '--data', 'x', '--rounds', 'x'], "--rounds 'x' is not a whole number of at least 1"],
    [['join'], "missing required argument 'invite'"],
    [['generate'], 'there is nothing to continue'],
    [['generate', '--prompt', 'a', '--ids', '1'], 'there are several inputs'],
    [['daemon', '--listen', 'localhost:4001'], "--listen 'localhost:4001' is not a multiaddr"],
    [['init', '--name', 'x'], '--model is missing'],
    [['status', '--config', '/nowhere.yaml'], 'the file /nowhere.yaml cannot be read']
  ])('refuses %j in one line, with exit code 2', async (args, message) => {
    const { code, out, err } = await run(args)
    expect(err).toMatch(ONE_LINE)
    expect(err).toContain(message)
    expect([code, out]).toEqual([2, ''])
  })
})
