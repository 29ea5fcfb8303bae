import { z } from 'zod'
import { attention, fusedGatedMlp, preNormBlock } from './block-parts.ts'
import { attentionLinears, decoder, decoderSettings } from './decoder.ts'
import { count, linear, readConfig, rmsNorm, sameWindow } from './description.ts'
import type { Config, Description, Family } from './family.ts'

export const glmConfig = z.looseObject({
  ...decoderSettings,
  num_key_value_heads: count.nullable().default(2),
  head_dim: count.nullable().default(128),
  max_position_embeddings: count.default(131072),
  rms_norm_eps: z.number().positive().default(1.5625e-7),
  attention_bias: z.boolean().default(true)
})

/** GLM-4-9B in the form that transformers gives it (https://arxiv.org/abs/2406.12793). */
export const glm: Family = { name: 'glm', modelType: 'glm', architectures: ['GlmForCausalLM'], describe }

function describe (config: Config): Description {
  const c = readConfig('GLM', glmConfig, config)
  return {
    ...glmModel(c, config),
    norms: [rmsNorm('input_layernorm', c.hidden_size), rmsNorm('post_attention_layernorm', c.hidden_size)],
    block: preNormBlock(attention, glmMlp)
  }
}

/**
 * Returns all but the normalisations: half of each head turns, in neighbouring pairs, and gate and values of the MLP come from one module.
 */
export function glmModel (c: z.output<typeof glmConfig>, config: Config) {
  const model = decoder(c, config, { share: 0.5, interleaved: true })
  return {
    ...model,
    linears: [
      ...attentionLinears(model, { qkv: c.attention_bias, o: false }),
      linear('mlp.gate_up_proj', c.hidden_size, 2 * c.intermediate_size),
      linear('mlp.down_proj', c.intermediate_size, c.hidden_size)
    ],
    windows: sameWindow(c.num_hidden_layers, null)
  }
}

export const glmMlp = fusedGatedMlp('mlp.gate_up_proj', 'mlp.down_proj')
