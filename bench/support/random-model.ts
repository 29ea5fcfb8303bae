import { createCipheriv, createHash } from 'node:crypto'
import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { storedBytes } from '../../src/model/checkpoint/dtypes.ts'
import { writeSafetensorsFrom } from '../../src/model/checkpoint/safetensors.ts'
import { blockTensor, blockWeights, embeddingWeight, headWeights, modelOf, type WeightSpec } from '../../src/model/families/index.ts'
import { elementCount } from '../../src/tensor.ts'

/** A LLaMA model's measures. */
export interface ModelSize {
  readonly hidden: number
  readonly blocks: number
  readonly intermediate: number
  readonly heads: number
  readonly kvHeads: number
  readonly vocabulary: number
  readonly positions: number
  /** Whether the head has a weight of its own. */
  readonly untied?: boolean
}

type StoredDType = 'F32' | 'BF16'

/**
 * By stored type: one, and random bits as a number between 1/64 and 1/32 of either sign, so that hidden states stay near one through
 * some blocks. Both are two bfloat16 or one float32, as the 32 bits that hold them.
 */
const ONE: Readonly<Record<StoredDType, number>> = { F32: 0x3f800000, BF16: 0x3f803f80 }
const RANDOM_BITS: Readonly<Record<StoredDType, number>> = { F32: 0x807fffff, BF16: 0x807f807f }
const EXPONENT: Readonly<Record<StoredDType, number>> = { F32: 0x3c800000, BF16: 0x3c803c80 }

const CHUNK_BYTES = 2 ** 23

/** Any tokenizer with fewer tokens than the model has does: the demo's comes with the project. */
const TOKENIZER = join(import.meta.dirname, '../../src/cli/demo/model')

/** Writes a Hugging Face directory with random weights, the same for the same size. They are never in memory together. */
export async function writeRandomModel (directory: string, size: ModelSize, dtype: StoredDType = 'F32'): Promise<void> {
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: size.vocabulary,
    hidden_size: size.hidden,
    intermediate_size: size.intermediate,
    num_hidden_layers: size.blocks,
    num_attention_heads: size.heads,
    num_key_value_heads: size.kvHeads,
    max_position_embeddings: size.positions,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: size.untied !== true,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: dtype === 'F32' ? 'float32' : 'bfloat16'
  }
  const model = modelOf(config)
  const blocks = Array.from(
    { length: size.blocks },
    (_, layer) => blockWeights(model).map(({ name, shape }) => ({ name: blockTensor(model, layer, name), shape }))
  )
  const weights = new Map([embeddingWeight(model), ...blocks.flat(), ...headWeights(model)].map((weight) => [weight.name, weight]))
  await mkdir(directory, { recursive: true })
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) await copyFile(join(TOKENIZER, name), join(directory, name))
  await writeFile(join(directory, 'config.json'), JSON.stringify(config))
  await writeSafetensorsFrom(
    join(directory, 'model.safetensors'),
    new Map([...weights].map(([name, { shape }]) => [name, { dtype, shape }])),
    (name) => values(weights.get(name)!, dtype)
  )
}

/** A weight's bytes: ones for a norm, random for a matrix, by its name. */
function * values ({ name, shape }: WeightSpec, dtype: StoredDType): Generator<Uint8Array> {
  const key = createHash('sha256').update(name).digest()
  const cipher = createCipheriv('aes-256-ctr', key, new Uint8Array(16))
  const zeros = new Uint8Array(CHUNK_BYTES)
  for (let left = elementCount(shape) * storedBytes[dtype]; left > 0; left -= CHUNK_BYTES) {
    const bytes = new Uint8Array(cipher.update(zeros))
    const words = new Uint32Array(bytes.buffer)
    if (shape.length === 1) words.fill(ONE[dtype])
    else for (let i = 0; i < words.length; i++) words[i] = (words[i]! & RANDOM_BITS[dtype]) | EXPONENT[dtype]
    yield bytes.subarray(0, left)
  }
}
