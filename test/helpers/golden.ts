import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
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
 * What PyTorch computes for one small model (test/reference/model_golden.py). `hidden[i]` enters block i, the last leaves
 * the last block before the final norm; all are packed rows `[sum of lengths, hidden]`. The `lora…` fields and the
 * gradients (of the summed cross-entropy of every next token) are with `loraWeights`; the others are the base model's.
 */
export interface ModelGolden {
  /** `family/name`. */
  readonly name: string
  readonly seed: string
  /** The model's config.json. */
  readonly config: Readonly<Record<string, unknown>>
  /** Of the base weights, by their names in a Hugging Face checkpoint. */
  readonly shapes: Readonly<Record<string, readonly number[]>>
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
  /**
   * What leaves the last block when the first sequence comes token by token after its first `prompt` tokens, where that makes a difference.
   */
  readonly decoded?: { readonly prompt: number, readonly hidden: EncodedTensor }
}

/** A pass of one small model in which words are withheld (test/reference/withholding_golden.py). */
export interface WithholdingGolden {
  /** The model golden whose weights these are. */
  readonly base: string
  readonly sequences: readonly (readonly number[])[]
  /** The positions that are withheld, for each sequence. */
  readonly withheld: readonly (readonly number[])[]
  readonly gate: EncodedTensor
  /** Summed over all tokens. */
  readonly loss: number
  readonly gateGradient: EncodedTensor
  readonly gradients: Readonly<Record<string, EncodedTensor>>
}

/** The LoRA parameters of one small model after AdamW steps (test/reference/steps_golden.py). */
export interface StepsGolden {
  /** The model golden whose base weights these are. */
  readonly base: string
  readonly seed: string
  readonly lora: LoraSettings
  readonly adamw: AdamWSettings
  readonly steps: number
  /** A step takes the next of these, in turn: sequences of which every token but the first is a target. */
  readonly batches: readonly (readonly (readonly number[])[])[]
  /** Mean loss per target token, before the first and before the last step. */
  readonly firstLoss: number
  readonly lastLoss: number
  readonly rounding: Encoding
  /** By `${layer}.${module}.lora_A` or `.lora_B`. */
  readonly final: Readonly<Record<string, EncodedTensor>>
}

export interface AdamWSettings {
  readonly lr: number
  readonly betas: readonly [number, number]
  readonly eps: number
  readonly weightDecay: number
}

/** How far float32 and float64 lie apart in PyTorch itself: `tensor` as by relativeError. */
export interface Encoding {
  readonly tensor: number
  readonly norm: number
  readonly element: number
}

export const goldenFamilies = ['llama', 'mistral', 'qwen2', 'qwen3', 'glm', 'glm4', 'chatglm2'] as const

/** Every model golden, as `family/name`. */
export const goldenNames: readonly string[] = goldenFamilies.flatMap((family) =>
  readdirSync(new URL(`../reference/${family}`, import.meta.url))
    .filter((file) => file !== 'steps.json').sort().map((file) => `${family}/${file.replace('.json', '')}`)
)

/** Centralised training of stories260K on three clients' text (test/reference/train_golden.py). */
export interface TrainGolden {
  readonly seed: string
  readonly lora: LoraSettings
  readonly adamw: AdamWSettings
  readonly speakers: readonly string[]
  /** `ids[round][client]`: sequences, BOS first; every token but the first is a target. One optimiser step a round. */
  readonly ids: readonly (readonly (readonly (readonly number[])[])[])[]
  readonly heldOut: readonly (readonly number[])[]
  /** Mean loss per target token, before each round's step. */
  readonly losses: readonly number[]
  readonly losses64: readonly number[]
  readonly heldOutBefore: number
  readonly heldOutAfter: number
  readonly rounding: Encoding
  /** By `${layer}.${module}.lora_A` or `.lora_B`. */
  readonly final: Readonly<Record<string, EncodedTensor>>
  readonly final64: Readonly<Record<string, EncodedTensor>>
}

/** The logits that PEFT gives for test/reference/peft-adapter over the model of llama/`base`.json. */
export interface PeftGolden {
  readonly base: string
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

/** A model golden by its `family/name`. */
export function readModelGolden (name: string): ModelGolden {
  return readGolden<ModelGolden>(`${name}.json`)
}

export function readStepsGolden (family: typeof goldenFamilies[number]): StepsGolden {
  return readGolden<StepsGolden>(`${family}/steps.json`)
}

export function readWithholdingGolden (): WithholdingGolden {
  return readGolden<WithholdingGolden>('withholding.json')
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
  if (name.endsWith('norm.weight')) return float32(shape, values.map((value) => 1 + 0.1 * value))
  if (name.endsWith('.bias')) return float32(shape, values.map((value) => 0.1 * value))
  if (name.endsWith('embed_tokens.weight')) return float32(shape, values)
  const scale = Math.sqrt(3 / (shape.at(-1) ?? 1))
  return float32(shape, values.map((value) => value * scale))
}

/** A LoRA weight, A or B, by the path of its module in the model; never zero, so that every gradient is there to compare. */
export function formulaLora (seed: string, path: string, shape: readonly number[]): Tensor {
  const root = Math.sqrt(shape.at(-1) ?? 1)
  return float32(shape, signedUniform(`${seed}/base_model.model.${path}.weight`, elementCount(shape)).map((value) => value / root))
}

/** Every base weight of a golden model. */
export function baseWeights ({ seed, shapes }: Pick<ModelGolden, 'seed' | 'shapes'>): Map<string, Tensor> {
  return new Map(Object.entries(shapes).map(([name, shape]) => [name, formulaWeight(seed, name, shape)]))
}

/** Every LoRA weight of a golden model, by `${layer}.${module}.lora_A` or `.lora_B`. */
export function loraWeights ({ seed, shapes, gradients }: Pick<ModelGolden, 'seed' | 'shapes' | 'gradients'>): Map<string, Tensor> {
  const [layers] = /^.*\.layers\./m.exec(Object.keys(shapes).join('\n'))!
  return new Map(Object.entries(gradients).map(([name, { shape }]) => [name, formulaLora(seed, `${layers}${name}`, shape)]))
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
