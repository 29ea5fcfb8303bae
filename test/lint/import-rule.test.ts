import { existsSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { ESLint } from 'eslint'
import { describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('../../', import.meta.url))

// The type-checked rules ask for files of the project; the import rule does not, and so needs none that exist.
const eslint = new ESLint({
  cwd: root,
  overrideConfig: { files: ['**/*.ts'], languageOptions: { parserOptions: { projectService: false } } },
  ruleFilter: ({ ruleId }) => ruleId === 'import-x/no-restricted-paths' || ruleId === 'no-restricted-syntax'
})

async function complaints (filePath: string, code: string): Promise<string[]> {
  const [result] = await eslint.lintText(code, { filePath: `${root}${filePath}` })
  return result?.messages.map(({ message }) => message) ?? []
}

type Layer = 'api' | 'model' | 'protocols' | 'roles' | 'node' | 'cli'

/** Some file of a layer, as a file in another layer's folder names it: the rule sees only imports that resolve. */
function someFile (layer: Layer): string {
  const found = readdirSync(`${root}src/${layer}`, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts')).sort()
  return `../${layer}/${found[0]}`
}

const allowed: Record<Layer, Layer[]> = {
  api: [],
  model: ['api'],
  protocols: ['api'],
  roles: ['api', 'model', 'protocols'],
  node: ['api', 'model', 'protocols', 'roles'],
  cli: ['api', 'model', 'protocols', 'roles', 'node']
}

const layers = (Object.keys(allowed) as Layer[]).filter((layer) => existsSync(`${root}src/${layer}`))
const pairs = layers.flatMap((from) =>
  layers.filter((to) => to !== from).map((to) => ({ from, to, verb: allowed[from].includes(to) ? 'may' : 'may not' })))

describe('the one-way import rule', () => {
  it.each(pairs)('$from $verb import $to', async ({ from, to, verb }) => {
    const messages = await complaints(`src/${from}/virtual.ts`, `import { x } from '${someFile(to)}'\nx()\n`)
    expect(messages).toHaveLength(verb === 'may' ? 0 : 1)
  })

  it('holds for types, re-exports and dynamic imports', async () => {
    const file = someFile('model')
    for (const code of [`import type { X } from '${file}'`, `export * from '${file}'`, `await import('${file}')`]) {
      expect(await complaints('src/protocols/virtual.ts', `${code}\n`), code).toHaveLength(1)
    }
  })

  it('holds in folders below', async () => {
    expect(await complaints('src/model/graph/virtual.ts', `import '../${someFile('protocols')}'\n`)).toHaveLength(1)
  })

  it.each(['generation', 'privacy'])('keeps model/%s from model/training', async (folder) => {
    expect(await complaints(`src/model/${folder}/virtual.ts`, "import '../training/optimizer.ts'\n")).toHaveLength(1)
    expect(await complaints(`src/model/${folder}/virtual.ts`, "import '../layers/weights.ts'\n")).toEqual([])
  })

  it.each([
    ['may', '../../model/training/optimizer.ts'],
    ['may', '../../errors.ts'],
    ['may not', '../middle/stage.ts'],
    ['may not', '../../protocols/train/constants.ts'],
    ['may not', '../../node/home/home.ts'],
    ['may not', '../context.ts'],
    ['may not', '../client/runtime.ts'],
    ['may not', '../server/index.ts']
  ])('roles/training %s import %s, wherever in it', async (verb, file) => {
    for (const [path, specifier] of [['virtual.ts', file], ['aggregation/virtual.ts', `../${file}`]] as const) {
      const messages = new Set(await complaints(`src/roles/training/${path}`, `import '${specifier}'\n`))
      expect(messages.size > 0, path).toBe(verb === 'may not')
    }
  })

  it('lets every layer import the leaves, and the leaves no layer', async () => {
    expect(await complaints('src/model/virtual.ts', "import '../errors.ts'\nimport '../tensor.ts'\n")).toEqual([])
    expect(await complaints('src/tensor.ts', `import '${someFile('model').replace('../', './')}'\n`)).toHaveLength(1)
  })

  it('keeps tests out of what is published', async () => {
    expect(await complaints('src/cli/virtual.ts', "import '../../test/helpers/golden.ts'\n")).toHaveLength(1)
  })
})

describe('erasable syntax', () => {
  it.each([
    ['an enum', 'export enum Kind { One }'],
    ['a namespace', 'export namespace Space { export const one = 1 }'],
    ['a parameter property', 'export class Point { constructor (readonly x: number) {} }'],
    ['a default export', 'export default 1']
  ])('%s is refused', async (_, code) => {
    expect(await complaints('src/model/virtual.ts', `${code}\n`)).toHaveLength(1)
  })
})
