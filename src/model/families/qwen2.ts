import { z } from 'zod'
import { attention, gatedMlp, preNormBlock } from './block-parts.ts'
import { attentionLinears, decoder, decoderSettings, gatedLinears, type DecoderConfig } from './decoder.ts'
import { count, readConfig, rmsNorm } from './description.ts'
import { UnsupportedModelError, type Config, type Description, type Family, type Model } from './family.ts'

/** The settings that Qwen2 and 3 have in common. */
export const qwenSettings = {
  ...decoderSettings,
  num_key_value_heads: count.nullable().default(32),
  max_position_embeddings: count.default(32768),
  use_sliding_window: z.boolean().default(false),
  sliding_window: count.nullable().default(4096),
  max_window_layers: z.int().min(0).default(28),
  layer_types: z.array(z.enum(['full_attention', 'sliding_attention'])).nullish()
}

const qwen2Config = z.looseObject(qwenSettings)

/**
 * Qwen2 and 2.5 (https://arxiv.org/abs/2407.10671): LLaMA with biases on queries, keys and values, and windows in its last blocks where
 * they are asked for.
 */
export const qwen2: Family = { name: 'qwen2', modelType: 'qwen2', architectures: ['Qwen2ForCausalLM'], describe }

function describe (config: Config): Description {
  const c = readConfig('Qwen2', qwen2Config, config)
  const model = decoder(c, config)
  return {
    ...model,
    linears: [...attentionLinears(model, { qkv: true, o: false }), ...gatedLinears(c)],
    norms: [rmsNorm('input_layernorm', c.hidden_size), rmsNorm('post_attention_layernorm', c.hidden_size)],
    windows: qwenWindows(c),
    block: preNormBlock(attention, gatedMlp)
  }
}

type QwenConfig = DecoderConfig & z.output<z.ZodObject<typeof qwenSettings>>

/** Blocks from `max_window_layers` on have windows, or those that `layer_types` names. */
export function qwenWindows (
  { num_hidden_layers: layers, use_sliding_window, sliding_window, max_window_layers, layer_types }: QwenConfig
): Model['windows'] {
  const window = use_sliding_window ? sliding_window : null
  if (layer_types === undefined || layer_types === null)
    return Array.from({ length: layers }, (_, layer) =>
      layer >= max_window_layers ? window : null)
  if (layer_types.length !== layers) throw new UnsupportedModelError(`layer_types names ${layer_types.length} blocks of ${layers}`)
  if (window === null && layer_types.includes('sliding_attention'))
    throw new UnsupportedModelError('layer_types names blocks with windows, and there is no sliding_window')
  return layer_types.map((type) => type === 'sliding_attention' ? window : null)
}
