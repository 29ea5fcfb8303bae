import { copyFile, mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { writeSafetensors } from '../../src/model/checkpoint/safetensors.ts'
import { IGNORED_TARGET } from '../../src/model/text/batches.ts'
import { baseWeights, readGolden, type AdamWSettings, type EncodedTensor, type ModelGolden } from './golden.ts'
import { shapesOf } from './tiny-model.ts'

/** What the formulas of the original ChatGLM-6B give for one small model (test/reference/chatglm_golden.py). */
export interface ChatGLMGolden extends Omit<ModelGolden, 'decoded'> {
  /** Of each sequence of `ids`; `positions` in the text of all of its tokens but the last. */
  readonly contexts: ReadonlyArray<{ readonly contextLength: number, readonly maskPosition: number, readonly positions: readonly number[] }>
  /** The ids that follow each prompt. */
  readonly greedy: ReadonlyArray<readonly number[]>
  readonly training: {
    readonly ids: ReadonlyArray<readonly number[]>
    readonly adamw: AdamWSettings
    readonly sequencesPerStep: number
    /** Mean loss per token of the answers, before each step. */
    readonly losses: readonly number[]
    /** By `${layer}.${module}.lora_A` or `.lora_B`. */
    readonly final: Readonly<Record<string, EncodedTensor>>
  }
}

export const chatglmRevisions = ['130528', '150528'] as const

export function readChatGLMGolden (revision: typeof chatglmRevisions[number]): ChatGLMGolden {
  return readGolden<ChatGLMGolden>(`chatglm/${revision}.json`)
}

/** The token that ends a prompt, in these models. */
export const SOP = 104

/** The prompt of a sequence, sop included. */
export function promptOf (ids: readonly number[]): number[] {
  return ids.slice(0, ids.indexOf(SOP) + 1)
}

/** Sequences as inputs and targets: the answers with the token that ends them. */
export function answersOf (sequences: ReadonlyArray<readonly number[]>): { ids: number[][], targets: number[][] } {
  return {
    ids: sequences.map((ids) => ids.slice(0, -1)),
    targets: sequences.map((ids) => ids.slice(1).map((id, i) => i < ids.indexOf(SOP) ? IGNORED_TARGET : id))
  }
}

/**
 * Pieces of test/reference/sentencepiece/ice_text.model, before the special ones that its tokenizer adds: [MASK], [gMASK], [sMASK],
 * <unused_0>, <sop>, <eop>, …
 */
const PIECES = 250

const TINY = {
  architectures: ['ChatGLMForConditionalGeneration'],
  model_type: 'chatglm',
  vocab_size: 594,
  hidden_size: 32,
  inner_hidden_size: 64,
  num_layers: 3,
  num_attention_heads: 2,
  layernorm_epsilon: 1e-5,
  max_sequence_length: 96,
  position_encoding_2d: true,
  mask_token_id: PIECES,
  gmask_token_id: PIECES + 1,
  bos_token_id: PIECES + 4,
  eos_token_id: PIECES + 5,
  pad_token_id: 3,
  torch_dtype: 'float32'
}

/** Writes a directory of the original ChatGLM with random weights, three blocks and its own kind of tokenizer. */
export async function writeTinyChatGLM (directory: string): Promise<void> {
  await mkdir(directory, { recursive: true })
  // Published checkpoints hold the angles of the rotations besides, which nobody reads.
  const angles = Object.fromEntries(
    Array.from({ length: TINY.num_layers }, (_, layer) => [`transformer.layers.${layer}.attention.rotary_emb.inv_freq`, [4]])
  )
  await writeSafetensors(
    join(directory, 'model.safetensors'),
    baseWeights({ seed: 'tiny chatglm', shapes: { ...shapesOf(TINY), ...angles } })
  )
  await writeFile(join(directory, 'config.json'), JSON.stringify(TINY))
  await writeFile(join(directory, 'tokenizer_config.json'), JSON.stringify({ num_image_tokens: 0 }))
  await copyFile(new URL('../reference/sentencepiece/ice_text.model', import.meta.url), join(directory, 'ice_text.model'))
}
