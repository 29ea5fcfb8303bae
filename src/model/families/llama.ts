import { z } from 'zod'
import { attention, attentionLinears, decoderModel, decoderSettings, gatedLinears, gatedMlp, headsOf, preNormBlock, readConfig, rmsNorm, sameWindow } from './decoder.ts'
import type { Config, Family, Model } from './family.ts'
import { readPositions } from './rotary-settings.ts'

const llamaConfig = z.looseObject({
  ...decoderSettings,
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false)
})

/** LLaMA (https://arxiv.org/abs/2302.13971), 1 to 3. */
export const llama: Family = { name: 'llama', architectures: ['LlamaForCausalLM'], describe }

function describe (config: Config): Model {
  const c = readConfig('LLaMA', llamaConfig, config)
  const heads = headsOf(c)
  return {
    architecture: 'LlamaForCausalLM',
    ...decoderModel(c),
    ...heads,
    ...readPositions(config, { headSize: heads.headSize, maxPositions: c.max_position_embeddings }),
    linears: [
      ...attentionLinears(c.hidden_size, heads, { qkv: c.attention_bias, o: c.attention_bias }),
      ...gatedLinears(c.hidden_size, c.intermediate_size, c.mlp_bias)
    ],
    norms: [rmsNorm('input_layernorm', c.hidden_size), rmsNorm('post_attention_layernorm', c.hidden_size)],
    windows: sameWindow(c.num_hidden_layers, null),
    block: preNormBlock(attention, gatedMlp)
  }
}
