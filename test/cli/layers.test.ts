import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { resolveOptions, type Environment, type Flags } from '../../src/cli/layers.ts'
import { defaulted, mandatory, optional, repeated, toggle } from '../../src/cli/option.ts'
import { integer, list, path, text } from '../../src/cli/values.ts'
import { UsageError } from '../../src/errors.ts'

const options = {
  config: optional('FILE', path, 'Options'),
  rounds: defaulted('COUNT', integer({ min: 1 }), '10', 'Rounds'),
  listen: repeated('ADDRESS', text, 'Where to listen'),
  targets: optional('NAMES', list(text), 'Modules'),
  json: toggle('Print JSON')
}
const known = new Set([...Object.keys(options), 'name'])

let directory: string
beforeAll(async () => { directory = await mkdtemp(join(tmpdir(), 'midspan-layers-')) })
afterAll(async () => { await rm(directory, { recursive: true }) })

async function file (content: string): Promise<string> {
  const name = join(directory, `${Math.random()}.yaml`)
  await writeFile(name, content)
  return name
}

async function resolve (flags: Flags = {}, environment: Environment = {}): Promise<Record<string, unknown>> {
  return await resolveOptions(options, known, flags, environment)
}

describe('where options come from', () => {
  it('falls back to defaults', async () => {
    expect(await resolve()).toEqual({ config: undefined, rounds: 10, listen: [], targets: undefined, json: false })
  })

  it('takes the command line over the environment, and the environment over the file', async () => {
    const config = await file('rounds: 20\n')
    expect((await resolve({ config: [config] })).rounds).toBe(20)
    expect((await resolve({ config: [config] }, { MIDSPAN_ROUNDS: '30' })).rounds).toBe(30)
    expect((await resolve({ config: [config], rounds: ['40'] }, { MIDSPAN_ROUNDS: '30' })).rounds).toBe(40)
  })

  it('finds the file in the environment too', async () => {
    expect((await resolve({}, { MIDSPAN_CONFIG: await file('rounds: 20\n') })).rounds).toBe(20)
  })

  it('takes an empty variable as not set', async () => {
    expect((await resolve({}, { MIDSPAN_ROUNDS: '' })).rounds).toBe(10)
  })

  it('reads lists from flags, variables and files', async () => {
    expect((await resolve({ listen: ['a', 'b'] })).listen).toEqual(['a', 'b'])
    expect((await resolve({}, { MIDSPAN_LISTEN: 'a, b' })).listen).toEqual(['a', 'b'])
    const values = await resolve({ config: [await file('listen: [a, b]\ntargets: [q, v]\njson: true\n')] })
    expect(values).toMatchObject({ listen: ['a', 'b'], targets: ['q', 'v'], json: true })
  })

  it('lets the last of a flag that does not repeat count', async () => {
    expect((await resolve({ rounds: ['1', '2'] })).rounds).toBe(2)
  })

  it('accepts options of other commands in a file', async () => {
    expect((await resolve({ config: [await file('name: stories\n')] })).rounds).toBe(10)
  })

  it('accepts an empty file', async () => {
    expect((await resolve({ config: [await file('# nothing\n')] })).rounds).toBe(10)
  })

  it('names the source of a value that cannot be used', async () => {
    await expect(resolve({ rounds: ['x'] })).rejects.toThrow("--rounds 'x' is not a whole number of at least 1")
    await expect(resolve({}, { MIDSPAN_ROUNDS: '0' })).rejects.toThrow("MIDSPAN_ROUNDS '0' is not")
    const config = await file('rounds: many\n')
    await expect(resolve({ config: [config] })).rejects.toThrow(`${config}: rounds 'many' is not`)
  })

  it.each([
    ['round: 5', 'round is not an option'],
    ['config: x', 'config is not an option'],
    ['[1]', 'is not a list of options'],
    ['rounds: {a: 1}', 'rounds is not text'],
    ['rounds: [', 'is not YAML'],
    ['__proto__: 1', '__proto__ is not an option']
  ])('refuses the file %j', async (content, message) => {
    const refused = resolve({ config: [await file(content)] })
    await expect(refused).rejects.toThrow(UsageError)
    await expect(refused).rejects.toThrow(message)
  })

  it('suggests the option nearest to a mistyped key', async () => {
    await expect(resolve({ config: [await file('round: 5')] })).rejects.toMatchObject({ next: 'remove it, or write rounds' })
  })

  it('refuses a file that is not there', async () => {
    await expect(resolve({ config: [join(directory, 'absent.yaml')] })).rejects.toThrow('cannot be read')
  })

  it('refuses a variable that is no option, so that a mistyped one is not lost', async () => {
    await expect(resolve({}, { MIDSPAN_ROUNDZ: '5' })).rejects.toMatchObject({ code: 'E_USAGE', next: 'unset it, or write MIDSPAN_ROUNDS' })
  })

  it('refuses to run without a mandatory option', async () => {
    const needy = { data: mandatory('FILE', path, 'Text') }
    await expect(resolveOptions(needy, known, {}, {})).rejects.toMatchObject({
      message: '--data is missing',
      next: 'give --data FILE, or set MIDSPAN_DATA'
    })
  })
})
