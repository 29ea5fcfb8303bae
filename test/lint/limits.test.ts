import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'

const root = join(import.meta.dirname, '../..')

async function textsOf (folder: string): Promise<Map<string, string>> {
  const names = (await readdir(join(root, folder), { recursive: true })).filter((name) => name.endsWith('.ts') && !name.endsWith('_pb.ts'))
  return new Map(await Promise.all(names.map(async (name) => [join(folder, name), await readFile(join(root, folder, name), 'utf8')] as const)))
}

/** The limits that a file exports: constants whose names begin with MAX. */
function limitsIn (text: string): string[] {
  return [...text.matchAll(/^export const (MAX_[A-Z0-9_]+)/gm)].map(([, name]) => name!)
}

it('each limit that a file exports is named by a test, which crosses it wherever it is set', async () => {
  const [sources, tests] = [await textsOf('src'), await textsOf('test')]
  tests.delete(join('test', 'lint', 'limits.test.ts'))
  const words = new Set([...tests.values()].flatMap((text) => text.match(/\bMAX_[A-Z0-9_]+\b/g) ?? []))
  const limits = [...sources].flatMap(([file, text]) => limitsIn(text).map((name) => ({ file, name })))
  expect(limits.length).toBeGreaterThan(20)
  expect(limits.filter(({ name }) => !words.has(name))).toEqual([])
})
