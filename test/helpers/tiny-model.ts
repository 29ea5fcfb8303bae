import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeSafetensors } from '../../src/model/checkpoint/safetensors.ts'
import { blockTensor, blockWeights, headWeights, modelOf, type Config } from '../../src/model/families/index.ts'
import { baseWeights } from './golden.ts'

/** The config.json of the small model. */
export const TINY_CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 5,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  hidden_act: 'silu',
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: 'float32'
}

const WORDS = ['the', 'river', 'carries', 'a', 'small', 'boat', 'under', 'old', 'stone', 'bridges', 'and', 'past', 'quiet', 'mills']

/** A token a letter, after the three special ones. */
const TOKENIZER = {
  version: '1.0',
  truncation: null,
  padding: null,
  normalizer: null,
  decoder: null,
  pre_tokenizer: null,
  added_tokens: ['<unk>', '<s>', '</s>'].map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true
  })),
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [],
    special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } }
  },
  model: {
    type: 'BPE',
    dropout: null,
    unk_token: '<unk>',
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    merges: [],
    vocab: Object.fromEntries(['<unk>', '<s>', '</s>', ...'abcdefghijklmnopqrstuvwxyz '].map((token, id) => [token, id]))
  }
}

/** The shapes of a model's weights by their names in a checkpoint, from its config. */
export function shapesOf (config: Config): Record<string, readonly number[]> {
  const model = modelOf(config)
  const blocks = Array.from(
    { length: model.layers },
    (_, layer) => blockWeights(model).map(({ name, shape }) => ({ name: blockTensor(model, layer, name), shape }))
  ).flat()
  const all = [{ name: model.embedding, shape: [model.vocabularySize, model.hiddenSize] }, ...blocks, ...headWeights(model)]
  return Object.fromEntries(all.map(({ name, shape }) => [name, shape]))
}

/**
 * Writes a model directory of five blocks and 16 hidden units with random weights, the same ones each time: it says nothing, but trains in
 * milliseconds.
 */
export async function writeTinyModel (directory: string, changes: Config = {}): Promise<void> {
  const config = { ...TINY_CONFIG, ...changes }
  await mkdir(directory, { recursive: true })
  await writeSafetensors(join(directory, 'model.safetensors'), baseWeights({ seed: 'tiny', shapes: shapesOf(config) }))
  await writeFile(join(directory, 'config.json'), JSON.stringify(config))
  await writeFile(join(directory, 'tokenizer.json'), JSON.stringify(TOKENIZER))
}

/** Writes a JSONL file of records that differ in length; another seed gives other records. */
export async function writeTinyData (path: string, seed: number, records = 12): Promise<void> {
  const line = (record: number): string => {
    const words = Array.from({ length: 3 + (seed + record) % 5 }, (_, i) => WORDS[(seed * 5 + record * 3 + i * (seed + 1)) % WORDS.length])
    return JSON.stringify({ text: words.join(' ') })
  }
  await writeFile(path, Array.from({ length: records }, (_, record) => `${line(record)}\n`).join(''))
}
