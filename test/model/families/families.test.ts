import { describe, expect, it } from 'vitest'
import { endTensors, familyOf, middleTensors, modelOf } from '../../../src/model/families/index.ts'
import { type goldenFamilies, goldenNames, readModelGolden } from '../../helpers/golden.ts'

const configOf = (family: typeof goldenFamilies[number]): Readonly<Record<string, unknown>> => readModelGolden(`${family}/plain`).config

describe.each(goldenNames)('%s', name => {
  const { config, shapes } = readModelGolden(name)

  it('is of its family', () => {
    expect(familyOf(config).name).toBe(name.split('/')[0])
  })

  it('has the tensors of its checkpoint, in ends and middle together', () => {
    const { layers } = modelOf(config)
    const ends = endTensors(config, { inputBlocks: 1, outputBlocks: 0 })
    const middle = middleTensors(config, { first: 1, end: layers })
    expect([...ends, ...middle].sort()).toEqual(Object.keys(shapes).sort())
  })
})

describe('modelOf', () => {
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
    ['chatglm2', { multi_query_attention: false }, 'share no keys'],
    ['chatglm2', { rmsnorm: false }, 'RMSNorm'],
    ['chatglm2', { post_layer_norm: false }, 'last normalisation'],
    ['chatglm2', { apply_residual_connection_post_layernorm: true }, 'residuals'],
    ['chatglm2', { original_rope: false }, 'rotations'],
    ['chatglm2', { pre_seq_len: 128 }, 'prefix tuning'],
    ['chatglm2', { quantization_bit: 4 }, 'quantised'],
    ['chatglm2', { rope_ratio: 16, _name_or_path: 'THUDM/chatglm2-6b-32k' }, 'ChatGLM2-6B-32K']
  ] as const)('refuses a %s with %j', (family, change, reason) => {
    expect(() => modelOf({ ...configOf(family), ...change })).toThrow(reason)
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

  it('prefers the rotary settings that transformers prefers', () => {
    const both = { rope_scaling: { type: 'linear', factor: 2 }, rope_parameters: { rope_type: 'linear', factor: 4 } }
    expect(modelOf({ ...configOf('llama'), ...both }).rotary.frequencies[0]).toBe(0.5)
    expect(modelOf({ ...configOf('llama'), ...both, rope_scaling: null }).rotary.frequencies[0]).toBe(0.25)
  })
})
