import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { narrow } from '../../../src/model/checkpoint/conversion.ts'
import { openModelDirectory, type ModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import type { SaveDType } from '../../../src/model/checkpoint/dtypes.ts'
import { fingerprint } from '../../../src/model/checkpoint/fingerprint.ts'
import { writeMergedModel } from '../../../src/model/checkpoint/merged-directory.ts'
import { readPeftAdapter, type PeftAdapter } from '../../../src/model/checkpoint/peft.ts'
import { SafetensorsFile, writeSafetensorsFrom } from '../../../src/model/checkpoint/safetensors.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { baseWeights, decodeTensor, readGolden, readModelGolden, relativeError, type EncodedTensor } from '../../helpers/golden.ts'

type MergedGolden = Readonly<Record<'float32' | 'rslora' | 'bfloat16', Readonly<Record<string, EncodedTensor>>>>

const golden = readGolden<MergedGolden>('merged.json')
const weights = baseWeights(readModelGolden('llama/gqa'))
const NORM = 'model.norm.weight'

let root: string
let adapter: PeftAdapter
let count = 0
const path = (): string => join(root, `merged-${count++}`)

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-merge-'))
  adapter = await readPeftAdapter(fileURLToPath(new URL('../../reference/peft-adapter', import.meta.url)))
})
afterAll(async () => {
  await rm(root, { recursive: true, force: true })
})

/** In place of the last norm: the same value everywhere. */
function norm (value: number): Map<string, Tensor> {
  const shape = weights.get(NORM)!.shape
  return new Map([[NORM, float32(shape, Array(shape[0]).fill(value))]])
}

/** The golden model as a directory of two shards in this type, with what else publishers put there. */
async function base (dtype: SaveDType): Promise<ModelDirectory> {
  const directory = path()
  await mkdir(directory)
  const names = [...weights.keys()]
  const shards = { 'model-00001-of-00002.safetensors': names.slice(0, 9), 'model-00002-of-00002.safetensors': names.slice(9) }
  for (const [file, held] of Object.entries(shards)) {
    await writeSafetensorsFrom(
      join(directory, file),
      new Map(held.map((name) => [name, { dtype, shape: weights.get(name)!.shape }])),
      (name) => [narrow(dtype, weights.get(name)!.data as Float32Array)],
      { metadata: { format: 'pt', note: file } }
    )
  }
  const index = {
    metadata: { total_size: 1 },
    weight_map: Object.fromEntries(Object.entries(shards).flatMap(([file, held]) => held.map((name) => [name, file])))
  }
  const files = {
    'model.safetensors.index.json': JSON.stringify(index),
    'config.json': JSON.stringify(readModelGolden('llama/gqa').config),
    'tokenizer.json': '{}',
    LICENSE: 'as is',
    'pytorch_model.bin': 'a pickle',
    '.secret': 'no'
  }
  for (const [file, text] of Object.entries(files)) await writeFile(join(directory, file), text)
  return await openModelDirectory(directory)
}

describe('a merged model', () => {
  it.each([['float32', 'F32', false, 1e-6], ['rslora', 'F32', true, 1e-6], ['bfloat16', 'BF16', false, 2 ** -7]] as const)(
    'has the weights that PEFT merges: %s',
    async (kind, dtype, rslora, tolerance) => {
      const out = path()
      const merged = await writeMergedModel(await base(dtype), { adapter: { ...adapter, rslora } }, out)
      const directory = await openModelDirectory(out)
      expect(merged).toMatchObject({ directory: out, tensors: weights.size, changed: adapter.tensors.size / 2 })
      for (const [name, value] of Object.entries(golden[kind])) {
        expect(directory.info(name).dtype).toBe(dtype)
        expect(relativeError((await directory.read(name)).data as Float32Array, decodeTensor(value).data as Float32Array), name)
          .toBeLessThan(tolerance)
      }
    }
  )

  it('is the base in all else: shards, types, untouched tensors and companion files, but no pickles', async () => {
    const source = await base('F16')
    const out = path()
    await writeMergedModel(source, { values: norm(0.5) }, out)
    const directory = await openModelDirectory(out)
    expect((await readdir(out)).sort()).toEqual([
      'LICENSE',
      'config.json',
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
      'tokenizer.json'
    ])
    expect(await readFile(join(out, 'model.safetensors.index.json'), 'utf8')).toBe(
      await readFile(join(source.path, 'model.safetensors.index.json'), 'utf8')
    )
    expect((await SafetensorsFile.open(join(out, 'model-00002-of-00002.safetensors'))).metadata.get('note')).toBe(
      'model-00002-of-00002.safetensors'
    )
    const [before, after] = [await fingerprint(source), await fingerprint(directory)]
    expect({ ...after.tensors, [NORM]: null }).toEqual({ ...before.tensors, [NORM]: null })
    expect(await directory.read(NORM)).toEqual(norm(0.5).get(NORM))
  })

  it('rounds what it changed once, to nearest', async () => {
    const out = path()
    await writeMergedModel(await base('BF16'), { values: norm(1 + 2 ** -8) }, out) // half way between 1 and the next: to even
    expect(await (await openModelDirectory(out)).read(NORM)).toEqual(norm(1).get(NORM))
  })

  it('is refused, and nothing is left behind', async () => {
    const out = path()
    const source = await base('F16')
    const { tensors } = await fingerprint(source)
    for (
      const [changes, options, message] of [
        [{ values: new Map([[NORM, float32([2], [1, 2])]]) }, {}, 'in what was trained'],
        [{ values: new Map([['model.layers.9.x', float32([1], [1])]]) }, {}, 'has no tensor model.layers.9.x'],
        [{ values: norm(70_000) }, {}, 'which F16 does not'],
        [
          { adapter },
          { expected: { ...tensors, [NORM]: { bytes: 1, sha256: '0'.repeat(64) } } },
          `is not the model that was trained: ${NORM}`
        ],
        [{ adapter }, { expected: { other: { bytes: 1, sha256: '0'.repeat(64) } } }, 'is not the model that was trained: other']
      ] as const
    ) await expect((async () => await writeMergedModel(source, changes, out, options))(), message).rejects.toThrow(message)
    expect((await readdir(root)).filter((name) => name.startsWith(out.split('/').at(-1)!))).toEqual([])
  })

  it('does not replace what is there', async () => {
    const out = path()
    await mkdir(out)
    await writeFile(join(out, 'mine'), '')
    await expect(writeMergedModel(await base('F32'), { adapter }, out)).rejects.toThrow('is not empty')
    expect(await readdir(out)).toEqual(['mine'])
  })
})
