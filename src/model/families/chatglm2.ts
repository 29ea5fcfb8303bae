import { z } from 'zod'
import { fusedAttention, fusedGatedMlp, preNormBlock } from './block-parts.ts'
import { checkHeads, count, layerCount, linear, readConfig, rmsNorm, sameWindow } from './description.ts'
import type { Config, Description, Family } from './family.ts'
import { plainRotary, type RotaryTable } from './rotary-embedding.ts'
import { checkedRotary } from './rotary-settings.ts'

const chatglm2Config = z.looseObject({
  padded_vocab_size: count,
  hidden_size: count,
  ffn_hidden_size: count,
  num_layers: layerCount,
  num_attention_heads: count,
  kv_channels: count.multipleOf(4, 'half of each head cannot turn in pairs').default(128),
  multi_query_attention: z.literal(true, 'attention whose heads share no keys is not supported'),
  multi_query_group_num: count,
  seq_length: count.default(2048),
  layernorm_epsilon: z.number().positive().default(1e-5),
  rmsnorm: z.literal(true, 'other normalisations than RMSNorm are not supported').default(true),
  post_layer_norm: z.literal(true, 'a model without its last normalisation is not supported').default(true),
  apply_residual_connection_post_layernorm: z.literal(false, 'residuals from normalised states are not supported').default(false),
  original_rope: z.literal(true, 'other rotations than the original are not supported').default(true),
  rope_ratio: z.number().positive().default(1),
  add_bias_linear: z.boolean().default(false),
  add_qkv_bias: z.boolean().default(false),
  tie_word_embeddings: z.boolean().default(false),
  pre_seq_len: z.null('prefix tuning is not supported').optional(),
  quantization_bit: z.literal(0, 'quantised checkpoints are not supported').nullish(),
  _name_or_path: z.string().optional()
})

type ChatGLM2Config = z.output<typeof chatglm2Config>

const ROTARY_BASE = 10000
const INTERPOLATION_RATIO = 16

/** ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B as first published (https://arxiv.org/abs/2406.12793). */
export const chatglm2: Family = {
  name: 'chatglm2',
  modelType: 'chatglm',
  architectures: ['ChatGLMModel', 'ChatGLMForConditionalGeneration'],
  ownCode: true,
  recognizes,
  describe
}

/** Recognises a configuration by a size that the original ChatGLM, which has the same architecture's name, lacks. */
function recognizes (config: Config): boolean {
  return 'padded_vocab_size' in config
}

function describe (config: Config): Description {
  const c = readConfig('ChatGLM2', chatglm2Config, config)
  const heads = checkHeads({ heads: c.num_attention_heads, kvHeads: c.multi_query_group_num, headSize: c.kv_channels })
  const queries = heads.heads * heads.headSize
  return {
    layers: c.num_layers,
    hiddenSize: c.hidden_size,
    vocabularySize: c.padded_vocab_size,
    ...heads,
    maxPositions: c.seq_length,
    normEpsilon: c.layernorm_epsilon,
    tied: c.tie_word_embeddings,
    rotary: { ...checkedRotary(rotary(c), { rope_ratio: c.rope_ratio }), interleaved: true },
    linears: [
      linear(
        'self_attention.query_key_value',
        c.hidden_size,
        queries + 2 * heads.kvHeads * heads.headSize,
        c.add_bias_linear || c.add_qkv_bias
      ),
      linear('self_attention.dense', queries, c.hidden_size, c.add_bias_linear),
      linear('mlp.dense_h_to_4h', c.hidden_size, 2 * c.ffn_hidden_size, c.add_bias_linear),
      linear('mlp.dense_4h_to_h', c.ffn_hidden_size, c.hidden_size, c.add_bias_linear)
    ],
    norms: [rmsNorm('input_layernorm', c.hidden_size), rmsNorm('post_attention_layernorm', c.hidden_size)],
    defaultTargets: ['query_key_value', 'dense'],
    windows: sameWindow(c.num_layers, null),
    embedding: 'transformer.embedding.word_embeddings.weight',
    finalNorm: rmsNorm('transformer.encoder.final_layernorm', c.hidden_size),
    head: 'transformer.output_layer.weight',
    layersPrefix: 'transformer.encoder.layers',
    block: preNormBlock(
      fusedAttention('self_attention.query_key_value', 'self_attention.dense'),
      fusedGatedMlp('mlp.dense_h_to_4h', 'mlp.dense_4h_to_h')
    )
  }
}

/**
 * ChatGLM2-6B-32K divides positions by the ratio (https://arxiv.org/abs/2306.15595); ChatGLM3 and GLM-4 multiply the base by it. Only the
 * model's name tells them apart, and where it names none of them, the ratio: 16 is ChatGLM2-6B-32K's, the others were published with 50 and
 * more.
 */
function rotary ({ kv_channels, rope_ratio, _name_or_path = '' }: ChatGLM2Config): RotaryTable {
  const generation = /glm-?(\d)/i.exec(_name_or_path)?.[1]
  const divides = generation === undefined ? rope_ratio === INTERPOLATION_RATIO : generation === '2'
  if (!divides) return plainRotary(kv_channels / 2, ROTARY_BASE * rope_ratio)
  const plain = plainRotary(kv_channels / 2, ROTARY_BASE)
  return { ...plain, frequencies: plain.frequencies.map((frequency) => Math.fround(frequency / rope_ratio)) }
}
