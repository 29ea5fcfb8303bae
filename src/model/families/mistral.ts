import { z } from 'zod'
import { attention, gatedMlp, preNormBlock } from './block-parts.ts'
import { attentionLinears, decoder, decoderSettings, gatedLinears } from './decoder.ts'
import { count, readConfig, rmsNorm, sameWindow } from './description.ts'
import type { Config, Description, Family } from './family.ts'

const mistralConfig = z.looseObject({
  ...decoderSettings,
  num_key_value_heads: count.nullable().default(8),
  max_position_embeddings: count.default(4096 * 32),
  sliding_window: count.nullable().default(4096),
  layer_types: z.null('blocks with windows of their own are not supported').optional()
})

/** Mistral 7B (https://arxiv.org/abs/2310.06825) and its successors: LLaMA whose blocks see a window of keys. */
export const mistral: Family = { name: 'mistral', modelType: 'mistral', architectures: ['MistralForCausalLM'], describe }

function describe (config: Config): Description {
  const c = readConfig('Mistral', mistralConfig, config)
  const model = decoder(c, config)
  return {
    ...model,
    linears: [...attentionLinears(model, { qkv: false, o: false }), ...gatedLinears(c)],
    norms: [rmsNorm('input_layernorm', c.hidden_size), rmsNorm('post_attention_layernorm', c.hidden_size)],
    windows: sameWindow(c.num_hidden_layers, c.sliding_window),
    block: preNormBlock(attention, gatedMlp)
  }
}
