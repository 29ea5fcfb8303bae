import { z } from 'zod'
import { attention, gatedMlp, preNormBlock } from './block-parts.ts'
import { attentionLinears, decoder, decoderSettings, gatedLinears } from './decoder.ts'
import { readConfig, rmsNorm, sameWindow } from './description.ts'
import type { Config, Description, Family } from './family.ts'

const llamaConfig = z.looseObject({
  ...decoderSettings,
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false)
})

/** LLaMA (https://arxiv.org/abs/2302.13971), 1 to 3. */
export const llama: Family = { name: 'llama', modelType: 'llama', architectures: ['LlamaForCausalLM'], describe }

function describe (config: Config): Description {
  const c = readConfig('LLaMA', llamaConfig, config)
  const model = decoder(c, config)
  return {
    ...model,
    linears: [...attentionLinears(model, { qkv: c.attention_bias, o: c.attention_bias }), ...gatedLinears(c, c.mlp_bias)],
    norms: [rmsNorm('input_layernorm', c.hidden_size), rmsNorm('post_attention_layernorm', c.hidden_size)],
    windows: sameWindow(c.num_hidden_layers, null),
    block: preNormBlock(attention, gatedMlp)
  }
}
