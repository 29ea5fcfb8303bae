import { z } from 'zod'
import { attention, attentionLinears, count, decoderModel, decoderSettings, gatedLinears, gatedMlp, headsOf, preNormBlock, readConfig, rmsNorm, sameWindow } from './decoder.ts'
import type { Config, Family, Model } from './family.ts'
import { readPositions } from './rotary-settings.ts'

const mistralConfig = z.looseObject({
  ...decoderSettings,
  num_key_value_heads: count.nullable().default(8),
  max_position_embeddings: count.default(4096 * 32),
  sliding_window: count.nullable().default(4096),
  layer_types: z.null('blocks with windows of their own are not supported').optional()
})

/** Mistral 7B (https://arxiv.org/abs/2310.06825) and its successors: LLaMA whose blocks see a window of keys. */
export const mistral: Family = { name: 'mistral', architectures: ['MistralForCausalLM'], describe }

function describe (config: Config): Model {
  const c = readConfig('Mistral', mistralConfig, config)
  const heads = headsOf(c)
  return {
    architecture: 'MistralForCausalLM',
    ...decoderModel(c),
    ...heads,
    ...readPositions(config, { headSize: heads.headSize, maxPositions: c.max_position_embeddings }),
    linears: [...attentionLinears(c.hidden_size, heads, { qkv: false, o: false }), ...gatedLinears(c.hidden_size, c.intermediate_size)],
    norms: [rmsNorm('input_layernorm', c.hidden_size), rmsNorm('post_attention_layernorm', c.hidden_size)],
    windows: sameWindow(c.num_hidden_layers, c.sliding_window),
    block: preNormBlock(attention, gatedMlp)
  }
}
