import { glob, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { initOptions } from '../../src/cli/commands/init-options.ts'
import * as library from '../../src/index.ts'

const root = join(import.meta.dirname, '../..')

describe('the library', () => {
  it('exports what founds, joins, runs and asks', () => {
    expect(Object.keys(library).sort()).toEqual([
      'ControlClient',
      'DaemonError',
      'DaemonGoneError',
      'HomeInUseError',
      'HomeLockedError',
      'MidspanError',
      'NoDaemonError',
      'NoFederationError',
      'RefusedError',
      'TaskError',
      'UsageError',
      'changePartition',
      'comparePredictions',
      'createDefaults',
      'createFederation',
      'homeAt',
      'joinAsServer',
      'joinFederation',
      'parseTask',
      'readPredictions',
      'readTask',
      'scorePredictions',
      'startDaemon'
    ])
  })

  it('founds with the defaults of midspan init', () => {
    const options: Readonly<Record<string, { readonly fallback: unknown }>> = initOptions
    for (const [name, value] of Object.entries(library.createDefaults)) expect(options[name]?.fallback, name).toEqual(value)
    const missing = Object.entries(options)
      .filter(([name, { fallback }]) => fallback !== undefined && name !== 'role' && !(name in library.createDefaults))
    expect(missing.map(([name]) => name)).toEqual([])
  })
})

describe('the package', () => {
  it('has at run time what the sources import, and no more', async () => {
    const { dependencies } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { dependencies: Record<string, string> }
    expect(Object.keys(dependencies).sort()).toEqual([...await importedPackages()].sort())
  })
})

/** The packages that files of src/ import, by name. */
async function importedPackages (): Promise<Set<string>> {
  const names = new Set<string>()
  for await (const path of glob('src/**/*.ts', { cwd: root })) {
    const { importedFiles } = ts.preProcessFile(await readFile(join(root, path), 'utf8'))
    for (const { fileName } of importedFiles) {
      if (!/^(?:\.|node:)/.test(fileName)) names.add(fileName.split('/').slice(0, fileName.startsWith('@') ? 2 : 1).join('/'))
    }
  }
  return names
}
