import { z } from 'zod'
import type { Value } from '../graph/graph.ts'
import { add, mul, silu, split } from '../graph/operators/index.ts'
import type { BlockBuilder } from './builder.ts'
import { UnsupportedModelError, type Config, type LinearModule, type Model, type Norm } from './family.ts'

export const count = z.int().positive()

/** A charter's configuration comes from a peer, and what is kept of each block takes memory; the deepest models have some hundred. */
export const layerCount = count.max(10_000)

/** The settings that the decoders of the transformers library have in common. */
export const decoderSettings = {
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: layerCount,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: z.literal(['silu', 'swish']).default('silu'),
  max_position_embeddings: count.default(2048),
  rms_norm_eps: z.number().positive().default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  attention_chunk_size: z.null('attention in chunks is not supported').optional()
}

export type DecoderConfig = z.output<z.ZodObject<typeof decoderSettings>>

/** Reads a configuration by its family's schema. Throws UnsupportedModelError, with what is wrong, for one that does not fit. */
export function readConfig<Schema extends z.ZodType> (family: string, schema: Schema, config: Config): z.output<Schema> {
  const parsed = schema.safeParse(config)
  if (!parsed.success) throw new UnsupportedModelError(`the configuration is not ${family}'s: ${z.prettifyError(parsed.error).replaceAll('\n', ' ')}`)
  return parsed.data
}

/** Query heads over the key/value heads that they share. */
export type Heads = Pick<Model, 'heads' | 'kvHeads' | 'headSize'>

/** Its table of rotations is made before any weight is seen; published models have heads of 256 at most. */
const MAX_HEAD_SIZE = 4096

/** Throws UnsupportedModelError for heads that do not divide evenly, or are too large to be meant. */
export function checkHeads ({ heads, kvHeads, headSize }: Heads): Heads {
  if (!Number.isInteger(headSize) || headSize % 2 !== 0 || heads % kvHeads !== 0) {
    throw new UnsupportedModelError(`${heads} heads of ${headSize} over ${kvHeads} key/value heads do not divide evenly`)
  }
  if (headSize > MAX_HEAD_SIZE) throw new UnsupportedModelError(`heads have ${MAX_HEAD_SIZE} elements at most, not ${headSize}`)
  return { heads, kvHeads, headSize }
}

export function headsOf (c: DecoderConfig): Heads {
  return checkHeads({ heads: c.num_attention_heads, kvHeads: c.num_key_value_heads ?? c.num_attention_heads, headSize: c.head_dim ?? c.hidden_size / c.num_attention_heads })
}

/** What is the same in all of them: sizes, and names in the checkpoint. */
export function decoderModel (c: DecoderConfig) {
  return {
    layers: c.num_hidden_layers,
    hiddenSize: c.hidden_size,
    vocabularySize: c.vocab_size,
    normEpsilon: c.rms_norm_eps,
    tied: c.tie_word_embeddings,
    embedding: 'model.embed_tokens.weight',
    finalNorm: rmsNorm('model.norm', c.hidden_size),
    head: 'lm_head.weight',
    layersPrefix: 'model.layers',
    defaultTargets: ['q_proj', 'k_proj', 'v_proj', 'o_proj']
  } as const
}

export function rmsNorm (name: string, size: number): Norm {
  return { name, kind: 'rms', size }
}

export function linear (name: string, inputSize: number, outputSize: number, bias = false): LinearModule {
  return { name, inputSize, outputSize, bias }
}

/** The projections of attention; `qkv` and `o` say which have a bias. */
export function attentionLinears (hiddenSize: number, { heads, kvHeads, headSize }: Heads, bias: { readonly qkv: boolean, readonly o: boolean }): LinearModule[] {
  return [
    linear('self_attn.q_proj', hiddenSize, heads * headSize, bias.qkv),
    linear('self_attn.k_proj', hiddenSize, kvHeads * headSize, bias.qkv),
    linear('self_attn.v_proj', hiddenSize, kvHeads * headSize, bias.qkv),
    linear('self_attn.o_proj', heads * headSize, hiddenSize, bias.o)
  ]
}

export function gatedLinears (hiddenSize: number, innerSize: number, bias = false): LinearModule[] {
  return [
    linear('mlp.gate_proj', hiddenSize, innerSize, bias),
    linear('mlp.up_proj', hiddenSize, innerSize, bias),
    linear('mlp.down_proj', innerSize, hiddenSize, bias)
  ]
}

/** Every block sees so many keys back, itself among them; null: all. */
export function sameWindow (layers: number, window: number | null): Model['windows'] {
  return Array.from({ length: layers }, () => window)
}

/** A part of a block: x [rows, hidden] → [rows, hidden]. */
export type Part = (b: BlockBuilder, x: Value) => Value

/** Attention and MLP, each on the normalised sum of all before it and added to that sum. */
export function preNormBlock (attend: Part, feed: Part): Part {
  return (b, hidden) => {
    const middle = b.keep(add(hidden, attend(b, b.norm('input_layernorm', hidden))))
    return add(middle, feed(b, b.norm('post_attention_layernorm', middle)))
  }
}

export function attention (b: BlockBuilder, x: Value): Value {
  return b.linear('self_attn.o_proj', b.attention(b.linear('self_attn.q_proj', x), b.linear('self_attn.k_proj', x), b.linear('self_attn.v_proj', x)))
}

/** SwiGLU (https://arxiv.org/abs/2002.05202). */
export function gatedMlp (b: BlockBuilder, x: Value): Value {
  const gate = b.keep(b.linear('mlp.gate_proj', x))
  const up = b.keep(b.linear('mlp.up_proj', x))
  return b.linear('mlp.down_proj', mul(silu(gate), up))
}

/** SwiGLU whose gate and values come from one module, gate first. */
export function fusedGatedMlp (gateUp: string, down: string): Part {
  return (b, x) => {
    const fused = b.keep(b.linear(gateUp, x))
    const inner = Number(fused.shape[1]) / 2
    const [gate, up] = split(fused, [inner, inner], 1)
    return b.linear(down, mul(silu(gate!), up!))
  }
}
