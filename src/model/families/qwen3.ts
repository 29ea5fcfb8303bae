import { z } from 'zod'
import type { Value } from '../graph/graph.ts'
import type { BlockBuilder } from './builder.ts'
import { attentionLinears, count, decoderModel, gatedLinears, gatedMlp, headsOf, preNormBlock, readConfig, rmsNorm } from './decoder.ts'
import type { Config, Family, Model } from './family.ts'
import { qwenSettings, qwenWindows } from './qwen2.ts'
import { readPositions } from './rotary-settings.ts'

const qwen3Config = z.looseObject({
  ...qwenSettings,
  head_dim: count.default(128),
  attention_bias: z.boolean().default(false)
})

/** Qwen3 (https://arxiv.org/abs/2505.09388), its dense models: each head of queries and keys is normalised before it turns. */
export const qwen3: Family = { name: 'qwen3', architectures: ['Qwen3ForCausalLM'], describe }

function describe (config: Config): Model {
  const c = readConfig('Qwen3', qwen3Config, config)
  const heads = headsOf(c)
  return {
    architecture: 'Qwen3ForCausalLM',
    ...decoderModel(c),
    ...heads,
    ...readPositions(config, { headSize: heads.headSize, maxPositions: c.max_position_embeddings }),
    linears: [
      ...attentionLinears(c.hidden_size, heads, { qkv: c.attention_bias, o: c.attention_bias }),
      ...gatedLinears(c.hidden_size, c.intermediate_size)
    ],
    norms: [
      rmsNorm('input_layernorm', c.hidden_size),
      rmsNorm('self_attn.q_norm', heads.headSize),
      rmsNorm('self_attn.k_norm', heads.headSize),
      rmsNorm('post_attention_layernorm', c.hidden_size)
    ],
    windows: qwenWindows(c),
    block: preNormBlock(normedAttention, gatedMlp)
  }
}

function normedAttention (b: BlockBuilder, x: Value): Value {
  const q = b.norm('self_attn.q_norm', b.linear('self_attn.q_proj', x))
  const k = b.norm('self_attn.k_norm', b.linear('self_attn.k_proj', x))
  return b.linear('self_attn.o_proj', b.attention(q, k, b.linear('self_attn.v_proj', x)))
}
