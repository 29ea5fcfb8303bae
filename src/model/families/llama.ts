import { z } from 'zod'
import type { Value } from '../graph/graph.ts'
import { add, mul, silu } from '../graph/operators/index.ts'
import type { BlockBuilder } from './builder.ts'
import { UnsupportedModelError, type Config, type Family, type LinearModule, type Model, type Norm } from './family.ts'
import { readRotary } from './rotary.ts'

const count = z.int().positive()

const llamaConfig = z.looseObject({
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: z.literal('silu').default('silu'),
  max_position_embeddings: count.default(2048),
  rms_norm_eps: z.number().positive().default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false)
})

/** LLaMA (https://arxiv.org/abs/2302.13971), 1 to 3. */
export const llama: Family = { name: 'llama', architectures: ['LlamaForCausalLM'], describe }

function describe (config: Config): Model {
  const parsed = llamaConfig.safeParse(config)
  if (!parsed.success) throw new UnsupportedModelError(`the configuration is not LLaMA's: ${z.prettifyError(parsed.error).replaceAll('\n', ' ')}`)
  const c = parsed.data
  const heads = c.num_attention_heads
  const kvHeads = c.num_key_value_heads ?? heads
  const headSize = c.head_dim ?? c.hidden_size / heads
  if (!Number.isInteger(headSize) || headSize % 2 !== 0 || heads % kvHeads !== 0) {
    throw new UnsupportedModelError(`${heads} heads of ${headSize} over ${kvHeads} key/value heads do not divide evenly`)
  }
  const linear = (name: string, inputSize: number, outputSize: number, bias: boolean): LinearModule => ({ name, inputSize, outputSize, bias })
  const norm = (name: string): Norm => ({ name, kind: 'rms', size: c.hidden_size })
  return {
    architecture: 'LlamaForCausalLM',
    layers: c.num_hidden_layers,
    hiddenSize: c.hidden_size,
    vocabularySize: c.vocab_size,
    heads,
    kvHeads,
    headSize,
    maxPositions: c.max_position_embeddings,
    normEpsilon: c.rms_norm_eps,
    tied: c.tie_word_embeddings,
    rotary: readRotary(config, headSize),
    linears: [
      linear('self_attn.q_proj', c.hidden_size, heads * headSize, c.attention_bias),
      linear('self_attn.k_proj', c.hidden_size, kvHeads * headSize, c.attention_bias),
      linear('self_attn.v_proj', c.hidden_size, kvHeads * headSize, c.attention_bias),
      linear('self_attn.o_proj', heads * headSize, c.hidden_size, c.attention_bias),
      linear('mlp.gate_proj', c.hidden_size, c.intermediate_size, c.mlp_bias),
      linear('mlp.up_proj', c.hidden_size, c.intermediate_size, c.mlp_bias),
      linear('mlp.down_proj', c.intermediate_size, c.hidden_size, c.mlp_bias)
    ],
    norms: ['input_layernorm', 'post_attention_layernorm'].map(norm),
    defaultTargets: ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
    windows: Array.from({ length: c.num_hidden_layers }, () => null),
    embedding: 'model.embed_tokens.weight',
    finalNorm: norm('model.norm'),
    head: 'lm_head.weight',
    layersPrefix: 'model.layers',
    block
  }
}

function block (b: BlockBuilder, hidden: Value): Value {
  const x = b.norm('input_layernorm', hidden)
  const attended = b.attention(b.linear('self_attn.q_proj', x), b.linear('self_attn.k_proj', x), b.linear('self_attn.v_proj', x))
  const middle = b.keep(add(hidden, b.linear('self_attn.o_proj', attended)))

  const y = b.norm('post_attention_layernorm', middle)
  const gate = b.keep(b.linear('mlp.gate_proj', y))
  const up = b.keep(b.linear('mlp.up_proj', y))
  return add(middle, b.linear('mlp.down_proj', mul(silu(gate), up)))
}
