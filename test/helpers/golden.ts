import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { elementCount, float32, type Tensor } from '../../src/tensor.ts'

/** A float32 tensor as the scripts in test/reference write it: base64 of little-endian values. */
export interface EncodedTensor {
  readonly shape: readonly number[]
  readonly float32: string
}

export interface LoraSettings {
  readonly r: number
  readonly alpha: number
  readonly targets: readonly string[]
}

/**
 * What PyTorch computes for one small model (test/reference/llama_golden.py). `hidden[i]` enters block i, the last leaves
 * the last block before the final norm; all are packed rows `[sum of lengths, hidden]`. The `lora…` fields and the
 * gradients (of the summed cross-entropy of every next token) are with `loraWeights`; the others are the base model's.
 */
export interface LlamaGolden {
  readonly name: string
  readonly seed: string
  /** The model's config.json. */
  readonly config: Readonly<Record<string, unknown>>
  readonly ids: readonly (readonly number[])[]
  readonly hidden: readonly EncodedTensor[]
  readonly logits: EncodedTensor
  readonly lora: LoraSettings
  readonly loraLoss: number
  readonly loraLogits: EncodedTensor
  readonly loraHidden: readonly EncodedTensor[]
  readonly hiddenGradients: readonly EncodedTensor[]
  /** By `${layer}.${module}.lora_A` or `.lora_B`. */
  readonly gradients: Readonly<Record<string, EncodedTensor>>
}

export const llamaGoldenNames = [
  'plain', 'gqa', 'mqa-tied', 'attention-bias', 'mlp-bias', 'wide-heads', 'theta-500000', 'rope-parameters'
] as const

/** Centralised training of stories260K on three clients' text (test/reference/train_golden.py). */
export interface TrainGolden {
  readonly seed: string
  readonly lora: LoraSettings
  readonly adamw: { readonly lr: number, readonly betas: readonly [number, number], readonly eps: number, readonly weightDecay: number }
  readonly speakers: readonly string[]
  /** `ids[round][client]`: sequences, BOS first; every token but the first is a target. One optimiser step a round. */
  readonly ids: readonly (readonly (readonly (readonly number[])[])[])[]
  readonly heldOut: readonly (readonly number[])[]
  /** Mean loss per target token, before each round's step. */
  readonly losses: readonly number[]
  readonly losses64: readonly number[]
  readonly heldOutBefore: number
  readonly heldOutAfter: number
  /** How far float32 and float64 lie apart in PyTorch itself: `tensor` as by relativeError. */
  readonly rounding: { readonly tensor: number, readonly norm: number, readonly element: number }
  /** By `${layer}.${module}.lora_A` or `.lora_B`. */
  readonly final: Readonly<Record<string, EncodedTensor>>
  readonly final64: Readonly<Record<string, EncodedTensor>>
}

/** The logits that PEFT gives for test/reference/peft-adapter over the model of llama/`base`.json. */
export interface PeftGolden {
  readonly base: typeof llamaGoldenNames[number]
  /** Seed of the adapter's weights: see formulaLora. */
  readonly seed: string
  readonly lora: LoraSettings
  readonly ids: readonly (readonly number[])[]
  readonly logits: EncodedTensor
  readonly shapes: Readonly<Record<string, readonly number[]>>
}

/** Parses a file of test/reference. */
export function readGolden<T> (name: string): T {
  return JSON.parse(readFileSync(new URL(`../reference/${name}`, import.meta.url), 'utf8')) as T
}

export function readLlamaGolden (name: typeof llamaGoldenNames[number]): LlamaGolden {
  return readGolden<LlamaGolden>(`llama/${name}.json`)
}

export function readTrainGolden (): TrainGolden {
  return readGolden<TrainGolden>('train.json')
}

export function readPeftGolden (): PeftGolden {
  return readGolden<PeftGolden>('peft.json')
}

export function decodeTensor (encoded: EncodedTensor): Tensor {
  // The copy aligns the bytes: small Buffers are slices of a shared pool.
  return float32(encoded.shape, new Float32Array(Uint8Array.from(Buffer.from(encoded.float32, 'base64')).buffer))
}

function signedUniform (label: string, count: number): Float64Array {
  const bytes = createHash('shake256', { outputLength: 4 * count }).update(label).digest()
  return Float64Array.from({ length: count }, (_, i) => 2 * ((bytes.readUInt32LE(4 * i) >>> 8) / 2 ** 24) - 1)
}

/** A base weight of a golden model, under its name in a Hugging Face checkpoint. */
export function formulaWeight (seed: string, name: string, shape: readonly number[]): Tensor {
  const values = signedUniform(`${seed}/${name}`, elementCount(shape))
  if (name.endsWith('norm.weight')) return float32(shape, values.map(value => 1 + 0.1 * value))
  if (name.endsWith('.bias')) return float32(shape, values.map(value => 0.1 * value))
  if (name.endsWith('embed_tokens.weight')) return float32(shape, values)
  const scale = Math.sqrt(3 / (shape.at(-1) ?? 1))
  return float32(shape, values.map(value => value * scale))
}

/** A LoRA weight, A or B, of a golden model: never zero, so that every gradient is there to compare. */
export function formulaLora (seed: string, name: string, shape: readonly number[]): Tensor {
  const root = Math.sqrt(shape.at(-1) ?? 1)
  return float32(shape, signedUniform(`${seed}/base_model.model.model.layers.${name}.weight`, elementCount(shape)).map(value => value / root))
}

/** The shapes of a golden model's base weights by their names in a Hugging Face checkpoint, from its config. */
export function llamaShapes (config: LlamaGolden['config']): Record<string, number[]> {
  const count = (key: string): number => config[key] as number
  const hidden = count('hidden_size')
  const inner = count('intermediate_size')
  const headSize = (config.head_dim as number | undefined) ?? hidden / count('num_attention_heads')
  const queries = count('num_attention_heads') * headSize
  const keys = count('num_key_value_heads') * headSize
  const shapes: Record<string, number[]> = { 'model.embed_tokens.weight': [count('vocab_size'), hidden], 'model.norm.weight': [hidden] }
  if (config.tie_word_embeddings !== true) shapes['lm_head.weight'] = [count('vocab_size'), hidden]
  for (let layer = 0; layer < count('num_hidden_layers'); layer++) {
    const linear = (module: string, shape: [number, number], bias: boolean): void => {
      shapes[`model.layers.${layer}.${module}.weight`] = shape
      if (bias) shapes[`model.layers.${layer}.${module}.bias`] = [shape[0]]
    }
    const attentionBias = config.attention_bias === true
    const mlpBias = config.mlp_bias === true
    linear('self_attn.q_proj', [queries, hidden], attentionBias)
    linear('self_attn.k_proj', [keys, hidden], attentionBias)
    linear('self_attn.v_proj', [keys, hidden], attentionBias)
    linear('self_attn.o_proj', [hidden, queries], attentionBias)
    linear('mlp.gate_proj', [inner, hidden], mlpBias)
    linear('mlp.up_proj', [inner, hidden], mlpBias)
    linear('mlp.down_proj', [hidden, inner], mlpBias)
    shapes[`model.layers.${layer}.input_layernorm.weight`] = [hidden]
    shapes[`model.layers.${layer}.post_attention_layernorm.weight`] = [hidden]
  }
  return shapes
}

/** Every base weight of a golden model. */
export function llamaWeights (golden: Pick<LlamaGolden, 'seed' | 'config'>): Map<string, Tensor> {
  return new Map(Object.entries(llamaShapes(golden.config)).map(([name, shape]) => [name, formulaWeight(golden.seed, name, shape)]))
}

/** Every LoRA weight of a golden model, by `${layer}.${module}.lora_A` or `.lora_B`. */
export function loraWeights (golden: Pick<LlamaGolden, 'seed' | 'gradients'>): Map<string, Tensor> {
  return new Map(Object.entries(golden.gradients).map(([name, { shape }]) => [name, formulaLora(golden.seed, name, shape)]))
}

/** The largest difference over the largest expected magnitude; NaN anywhere gives NaN. Throws where sizes differ. */
export function relativeError (actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new RangeError(`${actual.length} values where ${expected.length} are expected`)
  let difference = 0
  let magnitude = 0
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs((actual[i] ?? NaN) - (expected[i] ?? NaN)))
    magnitude = Math.max(magnitude, Math.abs(expected[i] ?? NaN))
  }
  return difference === 0 ? 0 : difference / magnitude
}
