/**
 * How fast a checkpoint becomes float32 weights on the CPU device, over plain sequential reads of the same file, for each stored type.
 * Run: node bench/loading.ts [turns, 5] [directory for the files, the system's temporary one]
 */
import { execFile } from 'node:child_process'
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { narrow } from '../src/model/checkpoint/conversion.ts'
import { openModelDirectory } from '../src/model/checkpoint/directory.ts'
import type { SaveDType } from '../src/model/checkpoint/dtypes.ts'
import { writeSafetensorsFrom } from '../src/model/checkpoint/safetensors.ts'
import { blockTensor, blockWeights, embeddingWeight, headWeights, modelOf } from '../src/model/families/index.ts'
import { ModelWeights } from '../src/model/layers/weights.ts'
import { SeededRandom } from '../src/model/random.ts'
import { openDevice } from '../src/model/runtime/worker-device.ts'
import { elementCount } from '../src/tensor.ts'
import { median, printTable, spread } from './support/print.ts'

const BAR = 0.5
const TYPES = ['BF16', 'F16', 'F32'] as const
const READ_BYTES = 8 * 2 ** 20

/** Two blocks of TinyLlama's shape, with a quarter of its vocabulary. */
const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 8192,
  hidden_size: 2048,
  intermediate_size: 5632,
  num_hidden_layers: 2,
  num_attention_heads: 32,
  num_key_value_heads: 4,
  max_position_embeddings: 2048
}

/** Random values are repeated: only their bits matter, and making them takes longer than writing them. */
const DISTINCT = 2 ** 20

async function writeModel (directory: string, dtype: SaveDType): Promise<void> {
  const model = modelOf(CONFIG)
  const random = new SeededRandom('loading')
  const values = narrow(dtype, Float32Array.from({ length: DISTINCT }, () => (random.nextUint32() / 2 ** 31 - 1) / 50))
  const weights = [embeddingWeight(model), ...headWeights(model)]
  for (let layer = 0; layer < model.layers; layer++)
    weights.push(...blockWeights(model).map(({ name, shape }) => ({ name: blockTensor(model, layer, name), shape })))
  const bytesEach = values.byteLength / DISTINCT
  function * bytesOf (shape: readonly number[]): Generator<Uint8Array> {
    for (let left = elementCount(shape) * bytesEach; left > 0; left -= values.byteLength) yield values.subarray(0, left)
  }
  const shapes = new Map(weights.map(({ name, shape }) => [name, shape]))
  await writeSafetensorsFrom(
    join(directory, 'model.safetensors'),
    new Map([...shapes].map(([name, shape]) => [name, { dtype, shape }])),
    (name) => bytesOf(shapes.get(name)!)
  )
  await writeFile(join(directory, 'config.json'), JSON.stringify(CONFIG))
}

/** Seconds to read a file from start to end, one read after another into the same buffer; and its size. */
async function readPlainly (path: string): Promise<{ seconds: number, bytes: number }> {
  const handle = await open(path, 'r')
  try {
    const buffer = new Uint8Array(READ_BYTES)
    const start = performance.now()
    let bytes = 0
    for (let read = -1; read !== 0; bytes += read) read = (await handle.read(buffer, 0, READ_BYTES, bytes)).bytesRead
    return { seconds: (performance.now() - start) / 1000, bytes }
  } finally {
    await handle.close()
  }
}

/** Seconds from a directory's path to all of its weights on the device. */
async function load (directory: string): Promise<number> {
  const device = await openDevice('cpu')
  try {
    const start = performance.now()
    const source = await openModelDirectory(directory)
    const model = modelOf(source.config)
    const weights = new ModelWeights(device, model, { targets: [], r: 1, alpha: 1, rslora: false, dropout: 0, seed: '' })
    await weights.loadEmbedding(source)
    await weights.loadBlocks(source, { first: 0, end: model.layers })
    await weights.loadHead(source)
    const seconds = (performance.now() - start) / 1000
    weights.free()
    return seconds
  } finally {
    await device.close()
  }
}

/** Takes a file out of the page cache, where the system lets us. */
async function forget (path: string): Promise<boolean> {
  return await promisify(execFile)('dd', [`if=${path}`, 'iflag=nocache', 'count=0'], { timeout: 60_000 }).then(() => true, () => false)
}

async function measure (
  directory: string,
  turns: number,
  cold: boolean
): Promise<{ plain: number[], loaded: number[], bytes: number } | undefined> {
  const path = join(directory, 'model.safetensors')
  const before = async (): Promise<boolean> => cold ? await forget(path) : true
  await load(directory)
  const [plain, loaded]: [number[], number[]] = [[], []]
  let bytes = 0
  for (let turn = 0; turn < turns; turn++) {
    if (!await before()) return undefined
    const read = await readPlainly(path)
    plain.push(read.seconds)
    bytes = read.bytes
    await before()
    loaded.push(await load(directory))
  }
  return { plain, loaded, bytes }
}

async function main (turns: number, where: string): Promise<void> {
  console.log('Loading a checkpoint (safetensors to float32 on the CPU device) beside plain sequential reads of the same file, in turns')
  const rows: string[][] = []
  for (const dtype of TYPES) {
    const directory = await mkdtemp(join(where, 'midspan-loading-'))
    try {
      await writeModel(directory, dtype)
      for (const cold of [false, true]) {
        const measured = await measure(directory, turns, cold)
        const name = `${dtype}, ${cold ? 'not in the page cache' : 'in the page cache'}`
        if (measured === undefined) {
          rows.push([name, 'the cache cannot be emptied here'])
          continue
        }
        const { plain, loaded, bytes } = measured
        const rate = (seconds: readonly number[]): string => (bytes / 2 ** 20 / median(seconds)).toFixed(0)
        rows.push([
          name,
          (bytes / 2 ** 20).toFixed(0),
          rate(plain),
          rate(loaded),
          spread(plain.map((seconds, i) => seconds / loaded[i]!), 2),
          BAR.toFixed(2)
        ])
      }
    } finally {
      await rm(directory, { recursive: true })
    }
  }
  printTable(['file', 'MiB', 'read, MiB/s', 'loaded, MiB/s', 'loaded over read', 'bar, at least'], rows)
}

await main(Number(process.argv[2] ?? 5), process.argv[3] ?? tmpdir())
