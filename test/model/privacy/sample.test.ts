import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { SAMPLE_TEXTS } from '../../../src/model/privacy/sample-text.ts'
import { builtInSample, readSample } from '../../../src/model/privacy/sample.ts'
import { loadTokenizer } from '../../../src/model/text/load.ts'
import type { Tokenizer } from '../../../src/model/text/tokenizer.ts'
import { TINY_CONFIG, writeTinyModel } from '../../helpers/tiny-model.ts'

const model = modelOf(TINY_CONFIG)
const signal = AbortSignal.timeout(20_000)
let root: string
let tokenizer: Tokenizer
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-sample-'))
  await writeTinyModel(root)
  tokenizer = await loadTokenizer(root)
})
afterAll(async () => { await rm(root, { recursive: true }) })

async function sampleOf (text: string, { maxPositions = model.maxPositions } = {}) {
  const path = join(root, 'text.txt')
  await writeFile(path, text)
  return await readSample(path, tokenizer, { ...model, maxPositions }, signal)
}

describe('a sample to calibrate on', () => {
  it('has the beginning of each built-in text, every token with the one after it as its target', () => {
    const { ids, targets } = builtInSample(tokenizer, model)
    expect(ids).toHaveLength(SAMPLE_TEXTS.length)
    for (const [i, text] of SAMPLE_TEXTS.entries()) {
      const encoded = tokenizer.encode(text)
      expect(ids[i]).toEqual(encoded.slice(0, 64))
      expect(targets[i]).toEqual(encoded.slice(1, 65))
    }
  })

  it('has records from all over a file, no longer than the model reads', async () => {
    const lines = Array.from({ length: 100 }, (_, i) => `${'abcdefghij'[Math.floor(i / 10)]} quiet mill by the old river`)
    const { ids } = await sampleOf(lines.join('\n\n'), { maxPositions: 9 })
    expect(ids.map(({ length }) => length)).toEqual(Array(8).fill(9))
    expect(new Set(ids.map((sequence) => sequence[1])).size).toBe(8)
  })

  it('may be of a single record, and is refused where none can be read', async () => {
    expect((await sampleOf('a small boat')).ids).toHaveLength(1)
    await expect(sampleOf('\n')).rejects.toMatchObject({ code: 'E_DATASET' })
  })
})
