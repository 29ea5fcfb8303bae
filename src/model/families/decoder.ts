// What the decoders of the transformers library have in common: settings, and names in the checkpoint.
import { z } from 'zod'
import { checkHeads, count, layerCount, linear, rmsNorm, type Heads } from './description.ts'
import type { Config, LinearModule } from './family.ts'
import { readPositions, type RotaryShape } from './rotary-settings.ts'

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

/** Returns all of a model but what its family's blocks are made of. */
export function decoder (c: DecoderConfig, config: Config, rotary: RotaryShape = {}) {
  const heads = checkHeads({
    heads: c.num_attention_heads,
    kvHeads: c.num_key_value_heads ?? c.num_attention_heads,
    headSize: c.head_dim ?? c.hidden_size / c.num_attention_heads
  })
  return {
    layers: c.num_hidden_layers,
    hiddenSize: c.hidden_size,
    vocabularySize: c.vocab_size,
    ...heads,
    ...readPositions(config, { headSize: heads.headSize, maxPositions: c.max_position_embeddings, ...rotary }),
    normEpsilon: c.rms_norm_eps,
    tied: c.tie_word_embeddings,
    embedding: 'model.embed_tokens.weight',
    finalNorm: rmsNorm('model.norm', c.hidden_size),
    head: 'lm_head.weight',
    layersPrefix: 'model.layers',
    defaultTargets: ['q_proj', 'k_proj', 'v_proj', 'o_proj']
  } as const
}

/** Returns the projections of attention; `qkv` and `o` say which have a bias. */
export function attentionLinears (
  { hiddenSize, heads, kvHeads, headSize }: Heads & { readonly hiddenSize: number },
  bias: { readonly qkv: boolean, readonly o: boolean }
): LinearModule[] {
  return [
    linear('self_attn.q_proj', hiddenSize, heads * headSize, bias.qkv),
    linear('self_attn.k_proj', hiddenSize, kvHeads * headSize, bias.qkv),
    linear('self_attn.v_proj', hiddenSize, kvHeads * headSize, bias.qkv),
    linear('self_attn.o_proj', heads * headSize, hiddenSize, bias.o)
  ]
}

/** Returns the projections of a gated MLP. */
export function gatedLinears ({ hidden_size: hidden, intermediate_size: inner }: DecoderConfig, bias = false): LinearModule[] {
  return [
    linear('mlp.gate_proj', hidden, inner, bias),
    linear('mlp.up_proj', hidden, inner, bias),
    linear('mlp.down_proj', inner, hidden, bias)
  ]
}
