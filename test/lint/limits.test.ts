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

/** Limits that no test names yet. The list only gets shorter: what is added to the sources comes with its test. */
const WITHOUT_TEST: readonly string[] = [
  'MAX_ADAPTER_PART_BYTES', 'MAX_ADDRESSES', 'MAX_ADDRESS_BYTES', 'MAX_ANNOUNCEMENT_BYTES', 'MAX_ANNOUNCEMENT_LIFETIME_MS',
  'MAX_DROPOUT_SEED_CHARS', 'MAX_GENERATE_STREAMS', 'MAX_ITEM_ID_CHARS', 'MAX_MEMBER_MESSAGE_BYTES', 'MAX_MESSAGES_PER_MINUTE',
  'MAX_PROTOCOLS', 'MAX_REVOCATIONS_BYTES', 'MAX_SERVERS', 'MAX_STAGE_ITEMS', 'MAX_STAGE_STREAMS', 'MAX_STAGE_TOKENS',
  'MAX_UPDATE_BYTES'
]

it('each limit that a file exports is named by a test, which crosses it wherever it is set', async () => {
  const [sources, tests] = [await textsOf('src'), await textsOf('test')]
  tests.delete(join('test', 'lint', 'limits.test.ts'))
  const words = new Set([...tests.values()].flatMap((text) => text.match(/\bMAX_[A-Z0-9_]+\b/g) ?? []))
  const limits = [...sources].flatMap(([file, text]) => limitsIn(text).map((name) => ({ file, name })))
  expect(limits.length).toBeGreaterThan(20)
  const open = new Set(WITHOUT_TEST)
  expect(limits.filter(({ name }) => !words.has(name) && !open.has(name))).toEqual([])
  expect(WITHOUT_TEST.filter((name) => words.has(name) || !limits.some((limit) => limit.name === name))).toEqual([])
})
