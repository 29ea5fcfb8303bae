import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeSafetensors } from '../../src/model/checkpoint/safetensors.ts'
import { blockTensor, blockWeights, headWeights, modelOf } from '../../src/model/families/index.ts'
import { SeededRandom } from '../../src/model/random.ts'
import { elementCount, float32, type Tensor } from '../../src/tensor.ts'

/** A LLaMA model's measures. */
export interface ModelSize {
  readonly hidden: number
  readonly blocks: number
  readonly intermediate: number
  readonly heads: number
  readonly kvHeads: number
  readonly vocabulary: number
  readonly positions: number
}

/** Deviation of the weights: hidden states stay near one through a few blocks. */
const DEVIATION = 0.02

/** Any tokenizer with fewer tokens than the model has does: the demo's comes with the project. */
const TOKENIZER = join(import.meta.dirname, '../../src/cli/demo/model')

/** Writes a Hugging Face directory with random float32 weights, the same for the same size. */
export async function writeRandomModel (directory: string, { hidden, blocks, intermediate, heads, kvHeads, vocabulary, positions }: ModelSize): Promise<void> {
  const config = {
    architectures: ['LlamaForCausalLM'], model_type: 'llama', vocab_size: vocabulary, hidden_size: hidden, intermediate_size: intermediate, num_hidden_layers: blocks,
    num_attention_heads: heads, num_key_value_heads: kvHeads, max_position_embeddings: positions, rms_norm_eps: 1e-5, rope_theta: 10000, hidden_act: 'silu',
    tie_word_embeddings: true, bos_token_id: 1, eos_token_id: 2, torch_dtype: 'float32'
  }
  const model = modelOf(config)
  const random = new SeededRandom('bench')
  const uniform = (shape: readonly number[]): Tensor => float32(shape, Float32Array.from({ length: elementCount(shape) }, () => (random.nextUint32() / 2 ** 31 - 1) * DEVIATION * Math.sqrt(3)))
  const ones = (shape: readonly number[]): Tensor => float32(shape, new Float32Array(elementCount(shape)).fill(1))
  const weights = new Map([[model.embedding, uniform([vocabulary, hidden])], ...headWeights(model).filter(({ shape }) => shape.length === 1).map(({ name, shape }) => [name, ones(shape)] as const)])
  for (let layer = 0; layer < blocks; layer++) {
    for (const { name, shape } of blockWeights(model)) weights.set(blockTensor(model, layer, name), shape.length === 1 ? ones(shape) : uniform(shape))
  }
  await mkdir(directory, { recursive: true })
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) await copyFile(join(TOKENIZER, name), join(directory, name))
  await writeFile(join(directory, 'config.json'), JSON.stringify(config))
  await writeSafetensors(join(directory, 'model.safetensors'), weights)
}
