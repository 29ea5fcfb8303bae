import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readPeftAdapter, type PeftAdapter } from '../../src/model/checkpoint/peft.ts'
import { decodeTensor, readGolden, relativeError, type EncodedTensor } from '../helpers/golden.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { exportTrained, logitsWith } from './exported.ts'

/** What PEFT computes with test/reference/exported-adapter. */
interface ExportedGolden {
  readonly ids: number[][]
  readonly logits: EncodedTensor
  /** The largest difference that the adapter makes to a logit, of the largest logit. */
  readonly change: number
}

const GOLDEN = fileURLToPath(new URL('../reference/exported-adapter', import.meta.url))
const TOLERANCE = 1e-4

describe('an exported adapter', { timeout: 120_000 }, () => {
  let root: string
  let expected: PeftAdapter
  let actual: PeftAdapter
  const golden = readGolden<ExportedGolden>('exported.json')

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-export-'))
    await writeTinyModel(join(root, 'model'))
    expected = await readPeftAdapter(GOLDEN)
    actual = await exportTrained(join(root, 'model'), join(root, 'adapter'))
  }, 120_000)
  afterAll(async () => { await rm(root, { recursive: true, force: true }) })

  it('is the one that PEFT was asked about', async () => {
    const config = async (directory: string): Promise<unknown> => JSON.parse(await readFile(join(directory, 'adapter_config.json'), 'utf8'))
    expect(await config(join(root, 'adapter'))).toEqual(await config(GOLDEN))
    expect([...actual.tensors.keys()].sort()).toEqual([...expected.tensors.keys()].sort())
    for (const [name, { shape, data }] of expected.tensors) {
      expect(actual.tensors.get(name)?.shape).toEqual(shape)
      expect(relativeError(actual.tensors.get(name)?.data as Float32Array, data as Float32Array), name).toBeLessThan(TOLERANCE)
    }
  })

  it('computes in Midspan what it computes in PEFT', async () => {
    const logits = decodeTensor(golden.logits).data as Float32Array
    for (const adapter of [expected, actual]) {
      const own = await logitsWith(join(root, 'model'), adapter, golden.ids)
      expect(relativeError(own.data as Float32Array, logits)).toBeLessThan(TOLERANCE)
    }
    expect(golden.change).toBeGreaterThan(0.1) // without the adapter it would not hold
  })
})
