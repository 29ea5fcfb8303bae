import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { circlesOf, readImportGraph } from './import-graph.ts'

async function circlesAmong (files: Readonly<Record<string, string>>): Promise<string[][]> {
  const folder = await mkdtemp(join(tmpdir(), 'midspan-circles-'))
  onTestFinished(async () => { await rm(folder, { recursive: true }) })
  for (const [name, code] of Object.entries(files)) {
    await mkdir(join(folder, name, '..'), { recursive: true })
    await writeFile(join(folder, name), code)
  }
  return circlesOf(readImportGraph(folder))
}

describe('circles of imports', () => {
  it.each([
    ['types', "import type { B } from './below/b.ts'\nexport interface A { b: B }\n"],
    ['types inside a value import', "import { type B } from './below/b.ts'\nexport interface A { b: B }\n"],
    ['a type named in place', "export interface A { b: import('./below/b.ts').B }\n"],
    ['a re-export', "export * from './below/b.ts'\nexport interface A { b: 1 }\n"],
    ['a dynamic import', "export interface A { b: 1 }\nawait import('./below/b.ts')\n"]
  ])('are found where one arrow is %s', async (_, code) => {
    expect(await circlesAmong({ 'a.ts': code, 'below/b.ts': "import type { A } from '../a.ts'\nexport interface B { a: A }\n" }))
      .toEqual([['a.ts', 'below/b.ts']])
  })

  it('are found through several files, and are not where arrows only meet', async () => {
    expect(await circlesAmong({
      'a.ts': "import './b.ts'\nimport './d.ts'\n", 'b.ts': "import './c.ts'\n", 'c.ts': "import './a.ts'\nimport './d.ts'\n", 'd.ts': 'export {}\n'
    })).toEqual([['a.ts', 'b.ts', 'c.ts']])
  })

  it('do not exist in the sources', () => {
    expect(circlesOf(readImportGraph(fileURLToPath(new URL('../../src/', import.meta.url))))).toEqual([])
  })
})
