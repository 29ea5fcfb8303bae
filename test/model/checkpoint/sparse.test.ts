import { mkdtemp, open, rm, truncate, writeFile, type FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { openModelDirectory } from '../../../src/model/checkpoint/directory.ts'
import { encodeHeader } from '../../../src/model/checkpoint/header.ts'
import { checkModel, checkWeights, clientTensors, modelOf, modelWeights } from '../../../src/model/families/index.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'

/** LLaMA-2-70B, with so small a vocabulary that no other thread is asked to read it: reads are counted here. */
const config = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 32,
  hidden_size: 8192,
  intermediate_size: 28672,
  num_hidden_layers: 80,
  num_attention_heads: 64,
  num_key_value_heads: 8,
  max_position_embeddings: 16
}
const files = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const

let dir: string
beforeAll(async () => { dir = await mkdtemp(join(tmpdir(), 'midspan-sparse-')) })
afterAll(async () => { await rm(dir, { recursive: true }) })

it('of a directory of 137 GB, a client reads the headers and its ends', async () => {
  const model = modelOf(config)
  const weights = modelWeights(model)
  const weightMap = Object.fromEntries(weights.map(({ name }, i) => [name, files[i < weights.length / 2 ? 0 : 1]]))
  await writeFile(join(dir, 'config.json'), JSON.stringify(config))
  await writeFile(join(dir, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }))
  let [headBytes, totalBytes] = [0, 0]
  for (const file of files) {
    const { head, fileBytes } = encodeHeader(
      new Map(weights.filter(({ name }) => weightMap[name] === file).map(({ name, shape }) => [name, { dtype: 'BF16' as const, shape }])),
      {}
    )
    await writeFile(join(dir, file), head)
    await truncate(join(dir, file), fileBytes)
    headBytes += head.byteLength
    totalBytes += fileBytes
  }
  expect(totalBytes).toBeGreaterThan(136e9)

  let readBytes = 0
  const handle = await open(join(dir, 'config.json'))
  const methods = Object.getPrototypeOf(handle) as FileHandle
  await handle.close()
  // eslint-disable-next-line @typescript-eslint/unbound-method -- called on the handle that it was taken from
  const read = methods.read as (this: FileHandle, ...args: unknown[]) => Promise<{ bytesRead: number }>
  const spy = vi.spyOn(methods, 'read').mockImplementation(async function (this: FileHandle, ...args: unknown[]) {
    const result = await read.apply(this, args)
    readBytes += result.bytesRead
    return result as never
  })
  const device = await openDevice('cpu', { threads: 1 })
  try {
    const directory = await openModelDirectory(dir)
    checkModel(model, directory)
    checkWeights(model, directory, clientTensors(model, { inputBlocks: 0, outputBlocks: 0 }))
    expect(readBytes).toBe(headBytes)
    const ends = new ModelWeights(device, model, 'weights')
    await ends.loadEmbedding(directory)
    await ends.loadHead(directory)
    expect(readBytes).toBe(headBytes + 2 * (32 * 8192 + 8192 + 32 * 8192))
  } finally {
    spy.mockRestore()
    await device.close()
  }
})
