import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { runKey } from '../../../src/roles/client/training/data.ts'
import { checkWithholdable, describeWithholding, readWithholding } from '../../../src/roles/client/withholding-rules.ts'
import { readChatGLMGolden } from '../../helpers/chatglm.ts'
import { readModelGolden } from '../../helpers/golden.ts'

describe('rules for withheld words', () => {
  let root: string
  beforeAll(async () => { root = await mkdtemp(join(tmpdir(), 'midspan-rules-')) })
  afterAll(async () => { await rm(root, { recursive: true, force: true }) })

  it('are described by what they say, and not by the order of a list', async () => {
    const [a, b, c] = [join(root, 'a.txt'), join(root, 'b.txt'), join(root, 'c.txt')]
    await writeFile(a, 'lily\ntom\n/x+/\n')
    await writeFile(b, '# people\ntom\nLily\n/x+/\n')
    await writeFile(c, 'lily\n')
    const described = await Promise.all([a, b, c].map(async (path) => describeWithholding(await readWithholding(`names,${path}`))))
    expect(described[0]).toBe(described[1])
    expect(described[0]).not.toBe(described[2])
  })

  it('are read from a list with a byte order mark, and not from one that is no UTF-8, whose words would leave', async () => {
    const [marked, latin, wide] = [join(root, 'marked.txt'), join(root, 'latin.txt'), join(root, 'wide.txt')]
    await writeFile(marked, '\ufeffM\u00fcller\n')
    await writeFile(latin, Buffer.from('M\u00fcller\n', 'latin1'))
    await writeFile(wide, Buffer.from('Lily\n', 'utf16le'))
    expect(describeWithholding(await readWithholding(marked))).toContain('"m\u00fcller"')
    for (const path of [latin, wide]) await expect(readWithholding(path)).rejects.toThrow('is not UTF-8')
  })

  it("tell one run's work from another's, also where a list changes under its name", async () => {
    const [data, list] = [join(root, 'data.txt'), join(root, 'list.txt')]
    await writeFile(data, 'Lily had a dog.')
    await writeFile(list, 'lily\n')
    const options = { data, skipBadLines: false, lossOn: 'all' as const, seed: 0 }
    const [plain, first] = [await runKey(options), await runKey({ ...options, withhold: list })]
    await writeFile(list, 'dog\n')
    expect(new Set([plain, first, await runKey({ ...options, withhold: list })]).size).toBe(3)
  })

  it('are refused where states depend on how many tokens a text has, in one line', () => {
    expect(() => { checkWithholdable(modelOf(readModelGolden('llama/gqa').config)) }).not.toThrow()
    expect(() => { checkWithholdable(modelOf(readModelGolden('llama/rope-dynamic').config)) }).toThrow('rotations depend on a text')
    expect(() => { checkWithholdable(modelOf(readChatGLMGolden('130528').config)) }).toThrow('reads prompts in both directions')
  })

  it('are read from files that there are', async () => {
    await expect(readWithholding(join(root, 'absent'))).rejects.toMatchObject({ code: 'E_USAGE' })
  })
})
