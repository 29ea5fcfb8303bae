import { z } from 'zod'
import type { Value } from '../graph/graph.ts'
import { gatedMlp, preNormBlock } from './block-parts.ts'
import { attentionLinears, decoder, gatedLinears } from './decoder.ts'
import { count, readConfig, rmsNorm } from './description.ts'
import type { BlockBuilder, Config, Description, Family } from './family.ts'
import { qwenSettings, qwenWindows } from './qwen2.ts'

const qwen3Config = z.looseObject({
  ...qwenSettings,
  head_dim: count.default(128),
  attention_bias: z.boolean().default(false)
})

/** Qwen3 (https://arxiv.org/abs/2505.09388), its dense models: each head of queries and keys is normalised before it turns. */
export const qwen3: Family = { name: 'qwen3', modelType: 'qwen3', architectures: ['Qwen3ForCausalLM'], describe }

function describe (config: Config): Description {
  const c = readConfig('Qwen3', qwen3Config, config)
  const model = decoder(c, config)
  return {
    ...model,
    linears: [...attentionLinears(model, { qkv: c.attention_bias, o: c.attention_bias }), ...gatedLinears(c)],
    norms: [
      rmsNorm('input_layernorm', c.hidden_size),
      rmsNorm('self_attn.q_norm', model.headSize),
      rmsNorm('self_attn.k_norm', model.headSize),
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
