import { z } from 'zod'
import type { Value } from '../graph/graph.ts'
import { add, gelu, mul, reshape, split } from '../graph/operators/index.ts'
import { checkHeads, count, layerCount, layerNorm, linear, readConfig, sameWindow } from './description.ts'
import { UnsupportedModelError, type Config, type Description, type Family, type BlockBuilder } from './family.ts'
import { PromptError, type PromptContext, type PromptReading } from './prompts.ts'
import { plainRotary } from './rotary-embedding.ts'

const id = z.int().min(0)

const chatglmConfig = z.looseObject({
  vocab_size: count,
  hidden_size: count,
  inner_hidden_size: count,
  num_layers: layerCount,
  num_attention_heads: count,
  layernorm_epsilon: z.number().positive().default(1e-5),
  max_sequence_length: count.default(2048),
  position_encoding_2d: z.literal(true),
  tie_word_embeddings: z.boolean().default(false),
  bos_token_id: id,
  mask_token_id: id.optional(),
  gmask_token_id: id.optional(),
  pre_seq_len: z.null('prefix tuning is not supported').optional(),
  quantization_bit: z.literal(0, 'quantised checkpoints are not supported').nullish()
})

type ChatGLMConfig = z.output<typeof chatglmConfig>

/** The sizes of the vocabulary in the first revision of the checkpoint, which held image tokens too, and in the second. */
const [FIRST_VOCABULARY, SECOND_VOCABULARY] = [150528, 130528]

/** The mask tokens stand before bos; the configurations of the first revision do not name them. */
const [MASK_BEFORE_BOS, GMASK_BEFORE_BOS] = [4, 3]

const ROTARY_BASE = 10000

/** The original ChatGLM-6B (https://arxiv.org/abs/2103.10360, https://arxiv.org/abs/2210.02414), in both revisions of its vocabulary. */
export const chatglm: Family = {
  name: 'chatglm',
  modelType: 'chatglm',
  architectures: ['ChatGLMModel', 'ChatGLMForConditionalGeneration'],
  ownCode: true,
  recognizes,
  describe
}

/** Recognises a configuration by a size that ChatGLM2 and 3, which have the same architecture's name, lack. */
function recognizes (config: Config): boolean {
  return 'inner_hidden_size' in config
}

function describe (config: Config): Description {
  const c = readConfig('the original ChatGLM', chatglmConfig, config)
  const hidden = c.hidden_size
  const heads = checkHeads({ heads: c.num_attention_heads, kvHeads: c.num_attention_heads, headSize: hidden / c.num_attention_heads })
  const { headSize } = heads
  // Each half of a head turns in pairs.
  if (headSize % 4 !== 0) throw new UnsupportedModelError(`${heads.heads} heads do not divide ${hidden} elements into halves that turn`)
  return {
    layers: c.num_layers,
    hiddenSize: hidden,
    vocabularySize: c.vocab_size,
    ...heads,
    maxPositions: c.max_sequence_length,
    normEpsilon: c.layernorm_epsilon,
    tied: c.tie_word_embeddings,
    // One half of each head turns by the position in the text, the other by that in the answer.
    rotary: { ...plainRotary(headSize / 2, ROTARY_BASE), parts: 2 },
    linears: [
      linear('attention.query_key_value', hidden, 3 * hidden, true),
      linear('attention.dense', hidden, hidden, true),
      linear('mlp.dense_h_to_4h', hidden, c.inner_hidden_size, true),
      linear('mlp.dense_4h_to_h', c.inner_hidden_size, hidden, true)
    ],
    norms: [layerNorm('input_layernorm', hidden), layerNorm('post_attention_layernorm', hidden)],
    defaultTargets: ['query_key_value', 'dense'],
    windows: sameWindow(c.num_layers, null),
    prompts: promptReading(c),
    embedding: 'transformer.word_embeddings.weight',
    finalNorm: layerNorm('transformer.final_layernorm', hidden),
    head: 'lm_head.weight',
    layersPrefix: 'transformer.layers',
    block
  }
}

function block (b: BlockBuilder, hidden: Value): Value {
  const { heads, headSize, layers } = b.model
  const rows = hidden.shape[0]!
  // Of the whole model, whichever blocks are here.
  const alpha = Math.sqrt(2 * layers)

  const x = b.norm('input_layernorm', hidden)
  // Of each head in turn: its query, its key, its value.
  const fused = reshape(b.linear('attention.query_key_value', x), [rows, heads, 3, headSize])
  const [q, k, v] = split(fused, [1, 1, 1], 2).map((part) => reshape(part, [rows, heads * headSize])) as [Value, Value, Value]
  const middle = b.keep(add(mul(x, alpha), b.linear('attention.dense', b.attention(q, k, v))))

  const y = b.norm('post_attention_layernorm', middle)
  const inner = b.keep(b.linear('mlp.dense_h_to_4h', y))
  return add(mul(y, alpha), b.linear('mlp.dense_4h_to_h', gelu(inner, 'tanh')))
}

/**
 * Describes prompts: a sequence is `text [gMASK] sop answer eop`, or has a [MASK] within its text; sop is the configuration's bos. The
 * answer's position in the text is the mask token's, except that in the first revision it counts on for [gMASK] in the pass that reads the
 * text.
 */
function promptReading ({ vocab_size: vocabulary, bos_token_id: sop, mask_token_id, gmask_token_id }: ChatGLMConfig): PromptReading {
  const first = vocabulary === FIRST_VOCABULARY || (gmask_token_id === undefined && vocabulary !== SECOND_VOCABULARY)
  const [mask, gmask] = [mask_token_id ?? sop - MASK_BEFORE_BOS, gmask_token_id ?? sop - GMASK_BEFORE_BOS]
  const preferred = first ? [mask, gmask] : [gmask, mask]

  function context (ids: readonly number[], rows: 'read' | 'generated'): PromptContext {
    const length = Math.max(0, ids.indexOf(sop))
    const token = preferred.find((token) => ids.slice(0, length).includes(token))
    if (token === undefined)
      throw new PromptError(
        'a prompt has no mask token before its end',
        `close it with the ids ${gmask} ([gMASK]) and ${sop} (sop), before the answer`
      )
    const countsOn = first && token === gmask && rows === 'read'
    return { length, maskPosition: countsOn ? length : ids.indexOf(token) }
  }

  return { closing: [gmask, sop], context }
}
