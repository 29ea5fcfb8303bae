import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  blockWeights,
  clientTensors,
  familyOf,
  headWeights,
  modelOf,
  modelWeights,
  spanTensors,
  UnsupportedModelError
} from '../../../src/model/families/index.ts'
import { elementCount } from '../../../src/tensor.ts'
import { goldenNames, readModelGolden, type goldenFamilies } from '../../helpers/golden.ts'

const configOf = (family: typeof goldenFamilies[number]): Readonly<Record<string, unknown>> => readModelGolden(`${family}/plain`).config

describe.each(goldenNames)('%s', (name) => {
  const { config, shapes } = readModelGolden(name)

  it('is of its family', () => {
    expect(familyOf(config).name).toBe(name.split('/')[0])
  })

  it('has the tensors of its checkpoint, in ends and middle together', () => {
    const model = modelOf(config)
    const ends = clientTensors(model, { inputBlocks: 1, outputBlocks: 0 })
    const middle = spanTensors(model, { first: 1, end: model.layers })
    expect([...ends, ...middle].sort()).toEqual(Object.keys(shapes).sort())
  })

  it('has no module whose name begins with that of another, by which PEFT 0.7 would mistake the one for the other', () => {
    const { linears, norms } = modelOf(config)
    const names = [...linears, ...norms].map(({ name }) => name)
    expect(names.filter((name) => names.some((other) => other !== name && name.startsWith(other)))).toEqual([])
  })
})

/** Published checkpoints: their configuration, as far as it matters here, and how many parameters they have. */
const published: ReadonlyArray<readonly [name: string, parameters: number, config: Readonly<Record<string, unknown>>]> = [
  ['Llama-2-7b', 6_738_415_616, {
    architectures: ['LlamaForCausalLM'],
    hidden_act: 'silu',
    hidden_size: 4096,
    intermediate_size: 11008,
    max_position_embeddings: 4096,
    num_attention_heads: 32,
    num_hidden_layers: 32,
    num_key_value_heads: 32,
    pretraining_tp: 1,
    rms_norm_eps: 1e-5,
    rope_scaling: null,
    tie_word_embeddings: false,
    torch_dtype: 'float16',
    vocab_size: 32000
  }],
  ['Llama-3.2-1B', 1_235_814_400, {
    architectures: ['LlamaForCausalLM'],
    attention_bias: false,
    head_dim: 64,
    hidden_act: 'silu',
    hidden_size: 2048,
    intermediate_size: 8192,
    max_position_embeddings: 131072,
    mlp_bias: false,
    num_attention_heads: 32,
    num_hidden_layers: 16,
    num_key_value_heads: 8,
    pretraining_tp: 1,
    rms_norm_eps: 1e-5,
    rope_theta: 500000.0,
    tie_word_embeddings: true,
    torch_dtype: 'bfloat16',
    vocab_size: 128256,
    rope_scaling: { factor: 32.0, high_freq_factor: 4.0, low_freq_factor: 1.0, original_max_position_embeddings: 8192, rope_type: 'llama3' }
  }],
  ['Mistral-7B-v0.1', 7_241_732_096, {
    architectures: ['MistralForCausalLM'],
    hidden_act: 'silu',
    hidden_size: 4096,
    intermediate_size: 14336,
    max_position_embeddings: 32768,
    num_attention_heads: 32,
    num_hidden_layers: 32,
    num_key_value_heads: 8,
    rms_norm_eps: 1e-5,
    rope_theta: 10000.0,
    sliding_window: 4096,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
    vocab_size: 32000
  }],
  ['Qwen2.5-7B-Instruct', 7_615_616_512, {
    architectures: ['Qwen2ForCausalLM'],
    hidden_act: 'silu',
    hidden_size: 3584,
    intermediate_size: 18944,
    max_position_embeddings: 32768,
    max_window_layers: 28,
    num_attention_heads: 28,
    num_hidden_layers: 28,
    num_key_value_heads: 4,
    rms_norm_eps: 1e-6,
    rope_theta: 1000000.0,
    sliding_window: 131072,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
    use_sliding_window: false,
    vocab_size: 152064
  }],
  ['Qwen3-0.6B', 596_049_920, {
    architectures: ['Qwen3ForCausalLM'],
    attention_bias: false,
    head_dim: 128,
    hidden_act: 'silu',
    hidden_size: 1024,
    intermediate_size: 3072,
    max_position_embeddings: 40960,
    max_window_layers: 28,
    num_attention_heads: 16,
    num_hidden_layers: 28,
    num_key_value_heads: 8,
    rms_norm_eps: 1e-6,
    rope_scaling: null,
    rope_theta: 1000000,
    sliding_window: null,
    tie_word_embeddings: true,
    torch_dtype: 'bfloat16',
    use_sliding_window: false,
    vocab_size: 151936
  }],
  ['glm-4-9b-hf', 9_399_951_360, {
    architectures: ['GlmForCausalLM'],
    attention_bias: true,
    head_dim: 128,
    hidden_act: 'silu',
    hidden_size: 4096,
    intermediate_size: 13696,
    max_position_embeddings: 8192,
    num_attention_heads: 32,
    num_hidden_layers: 40,
    num_key_value_heads: 2,
    partial_rotary_factor: 0.5,
    rms_norm_eps: 1.5625e-07,
    rope_theta: 10000.0,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
    vocab_size: 151552
  }],
  ['chatglm3-6b', 6_243_584_000, {
    architectures: ['ChatGLMModel'],
    add_bias_linear: false,
    add_qkv_bias: true,
    apply_query_key_layer_scaling: true,
    apply_residual_connection_post_layernorm: false,
    attention_softmax_in_fp32: true,
    bias_dropout_fusion: true,
    ffn_hidden_size: 13696,
    fp32_residual_connection: false,
    hidden_size: 4096,
    kv_channels: 128,
    layernorm_epsilon: 1e-5,
    multi_query_attention: true,
    multi_query_group_num: 2,
    num_attention_heads: 32,
    num_layers: 28,
    original_rope: true,
    padded_vocab_size: 65024,
    post_layer_norm: true,
    rmsnorm: true,
    seq_length: 8192,
    tie_word_embeddings: false,
    torch_dtype: 'float16'
  }]
]

function parameterCount (config: Readonly<Record<string, unknown>>): number {
  const model = modelOf(config)
  const sum = (weights: ReadonlyArray<{ readonly shape: readonly number[] }>): number =>
    weights.reduce((total, { shape }) => total + elementCount(shape), 0)
  return model.layers * sum(blockWeights(model)) + sum(headWeights(model)) + (model.tied ? 0 : model.vocabularySize * model.hiddenSize)
}

describe('modelOf', () => {
  it('says on one line what is wrong with a configuration, however much is', () => {
    const config = { ...configOf('qwen2'), hidden_act: 'gelu', layer_types: new Array(1e5).fill('chunked_attention') }
    expect(() => modelOf(config)).toThrow(
      /^the configuration is not Qwen2's: hidden_act: [^\n;]*; layer_types\.0: [^\n;]*; layer_types\.1: [^\n;]*$/
    )
  })

  it.each(published)('finds in %s its %i parameters', (_, parameters, config) => {
    expect(parameterCount(config)).toBe(parameters)
  })

  it.each([
    ['mistral', { layer_types: ['full_attention', 'full_attention'] }, 'windows of their own'],
    ['mistral', { sliding_window: 0 }, 'sliding_window'],
    ['qwen2', { layer_types: ['full_attention', 'chunked_attention'] }, 'layer_types'],
    ['qwen2', { use_sliding_window: true, layer_types: ['sliding_attention'] }, '1 blocks of 2'],
    ['qwen2', { layer_types: ['full_attention', 'sliding_attention'] }, 'no sliding_window'],
    ['qwen3', { rope_scaling: { rope_type: 'mrope', mrope_section: [1, 2] } }, 'mrope'],
    ['qwen3', { hidden_act: 'gelu' }, 'hidden_act'],
    ['glm', { partial_rotary_factor: 0.1 }, 'cannot turn in pairs'],
    ['glm4', { num_key_value_heads: 3 }, 'do not divide'],
    ['glm4', { head_dim: 2 ** 40 }, '4096 elements'],
    ['glm', { max_position_embeddings: 2 ** 40 }, '33554432 positions'],
    ['llama', { rope_scaling: { type: 'linear', factor: 1e12 } }, 'positions at most'],
    ['chatglm2', { padded_vocab_size: undefined }, 'padded_vocab_size'],
    ['chatglm2', { multi_query_attention: false }, 'share no keys'],
    ['chatglm2', { multi_query_attention: undefined }, 'share no keys'],
    ['chatglm2', { rmsnorm: false }, 'RMSNorm'],
    ['chatglm2', { post_layer_norm: false }, 'last normalisation'],
    ['chatglm2', { apply_residual_connection_post_layernorm: true }, 'residuals'],
    ['chatglm2', { original_rope: false }, 'rotations'],
    ['chatglm2', { pre_seq_len: 128 }, 'prefix tuning'],
    ['chatglm2', { quantization_bit: 4 }, 'quantised']
  ] as const)('refuses a %s with %j', (family, change, reason) => {
    expect(() => modelOf({ ...configOf(family), ...change })).toThrow(reason)
  })

  it.each([
    ['divides positions', { rope_ratio: 16, _name_or_path: 'THUDM/chatglm2-6b-32k' }, 1 / 16],
    ['divides positions', { rope_ratio: 16, _name_or_path: '/models/mine' }, 1 / 16],
    ['divides positions', { rope_ratio: 8, _name_or_path: 'chatglm2-of-mine' }, 1 / 8],
    ['widens the base', { rope_ratio: 16, _name_or_path: 'THUDM/chatglm3-6b' }, 1],
    ['widens the base', { rope_ratio: 50, _name_or_path: '/models/mine' }, 1],
    ['widens the base', { rope_ratio: 500, _name_or_path: 'THUDM/glm-4-9b-chat' }, 1]
  ] as const)('%s of ChatGLM2 to 4 with %j', (_, change, angle) => {
    expect(modelOf({ ...configOf('chatglm2'), ...change }).rotary.frequencies[0]).toBe(angle)
  })

  it.each([
    ['qwen2', { use_sliding_window: true }, [null, 4]],
    ['qwen2', { use_sliding_window: true, sliding_window: null }, [null, null]],
    ['qwen3', { use_sliding_window: true, layer_types: ['sliding_attention', 'full_attention'] }, [4, null]],
    ['mistral', { sliding_window: 3 }, [3, 3]]
  ] as const)('gives the blocks of a %s with %j the windows %j', (family, change, windows) => {
    expect(modelOf({ ...configOf(family), ...change }).windows).toEqual(windows)
  })

  it.each([
    [{ rope_type: 'linear', factor: 4 }, 256],
    [{ rope_type: 'dynamic', factor: 2 }, 128],
    [{ rope_type: 'yarn', factor: 4, original_max_position_embeddings: 64 }, 256],
    [{ rope_type: 'yarn', factor: 4, original_max_position_embeddings: 16 }, 64]
  ])('lets sequences be as long as %j stretches them', (rope, positions) => {
    expect(modelOf({ ...configOf('llama'), rope_scaling: rope }).maxPositions).toBe(positions)
  })

  it('finds the positions of the first training beside the rotary settings or in them', () => {
    const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 }
    const within = modelOf({ ...configOf('llama'), rope_scaling: { ...llama3, original_max_position_embeddings: 16 } }).rotary
    expect(modelOf({ ...configOf('llama'), rope_scaling: llama3, original_max_position_embeddings: 16 }).rotary).toEqual(within)
    expect(modelOf({ ...configOf('llama'), rope_scaling: llama3 }).rotary).not.toEqual(within)
  })

  it('prefers the rotary settings that transformers prefers', () => {
    const both = { rope_scaling: { type: 'linear', factor: 2 }, rope_parameters: { rope_type: 'linear', factor: 4 } }
    expect(modelOf({ ...configOf('llama'), ...both }).rotary.frequencies[0]).toBe(0.5)
    expect(modelOf({ ...configOf('llama'), ...both, rope_scaling: null }).rotary.frequencies[0]).toBe(0.25)
  })
})

it('a configuration either describes a model that can be or is refused with UnsupportedModelError, whatever a peer writes into it', () => {
  const scaling = fc.record({
    rope_type: fc.constantFrom('linear', 'dynamic', 'llama3', 'yarn', 'longrope'),
    factor: fc.anything({ maxDepth: 0 }),
    rope_theta: fc.double(),
    original_max_position_embeddings: fc.double(),
    low_freq_factor: fc.double(),
    high_freq_factor: fc.double(),
    beta_fast: fc.double(),
    partial_rotary_factor: fc.double()
  }, { requiredKeys: ['rope_type'] })
  const value = fc.oneof(fc.jsonValue(), fc.integer(), fc.double(), scaling)
  const config = fc.constantFrom(...goldenNames).chain((name) => {
    const known = readModelGolden(name).config
    const keys = [
      ...Object.keys(known),
      'rope_scaling',
      'rope_parameters',
      'partial_rotary_factor',
      'layer_types',
      'auto_map',
      'original_max_position_embeddings'
    ]
    return fc.dictionary(fc.constantFrom(...keys), value, { maxKeys: 3 }).map((changes) => ({ ...known, ...changes }))
  })
  fc.assert(
    fc.property(config, (written) => {
      try {
        const model = modelOf(written)
        expect(model.maxPositions).toBeGreaterThan(0)
        expect(model.windows).toHaveLength(model.layers)
        expect(model.rotary.frequencies.every(Number.isFinite)).toBe(true)
        if (model.layers < 100)
          expect(modelWeights(model).every(({ shape }) => shape.every((size) => Number.isSafeInteger(size) && size > 0))).toBe(true)
      } catch (error) {
        expect(error).toBeInstanceOf(UnsupportedModelError)
      }
    }),
    { numRuns: 500 }
  )
})

it('a rope_ratio that gives no angles is refused by its name', () => {
  const { config } = readModelGolden(goldenNames.find((name) => readModelGolden(name).config.rmsnorm === true)!)
  for (const name of ['THUDM/chatglm2-6b-32k', 'THUDM/chatglm3-6b'])
    expect(() => modelOf({ ...config, rope_ratio: 5e-324, _name_or_path: name })).toThrow(/no angles: .*rope_ratio/)
})
