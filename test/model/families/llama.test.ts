import { describe, expect, it } from 'vitest'
import { familyOf, modelOf, supportedArchitectures, UnsupportedModelError } from '../../../src/model/families/index.ts'
import { rotaryTables } from '../../../src/model/families/rotary-embedding.ts'

const config = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 61,
  hidden_size: 32,
  intermediate_size: 56,
  num_hidden_layers: 3,
  num_attention_heads: 4
}

describe('familyOf', () => {
  it('knows LLaMA', () => {
    expect(familyOf(config).name).toBe('llama')
    expect(supportedArchitectures).toContain('LlamaForCausalLM')
  })

  it.each([[['BertModel']], [undefined], ['LlamaForCausalLM']])(
    'refuses the architecture %j and names those that it knows',
    (architectures) => {
      try {
        familyOf({ ...config, architectures })
        expect.unreachable()
      } catch (error) {
        expect(error).toBeInstanceOf(UnsupportedModelError)
        expect(error).toMatchObject({ next: expect.stringContaining('LlamaForCausalLM') as string })
      }
    }
  )
})

describe('modelOf', () => {
  it('fills in what old configurations leave out', () => {
    expect(modelOf(config)).toMatchObject({ kvHeads: 4, headSize: 8, tied: false, normEpsilon: 1e-6, maxPositions: 2048 })
    expect(modelOf({ ...config, num_key_value_heads: null, head_dim: null })).toMatchObject({ kvHeads: 4, headSize: 8 })
  })

  it('reads the rotary base wherever it stands, the new place first', () => {
    const base = (extra: object): number => modelOf({ ...config, ...extra }).rotary.frequencies[1]!
    expect(base({})).toBeCloseTo(10000 ** -0.25, 7)
    expect(base({ rope_theta: 500000 })).toBeCloseTo(500000 ** -0.25, 7)
    expect(base({ rope_theta: 10000, rope_parameters: { rope_type: 'default', rope_theta: 500000 } })).toBeCloseTo(500000 ** -0.25, 7)
  })

  it('stretches rotations as linear and llama3 scaling say', () => {
    const plain = modelOf({ ...config, head_dim: 64 }).rotary.frequencies
    const linear = modelOf({ ...config, head_dim: 64, rope_scaling: { type: 'linear', factor: 4 } }).rotary.frequencies
    linear.forEach((frequency, i) => {
      expect(frequency).toBeCloseTo(plain[i]! / 4, 7)
    })
    const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 }
    const scaled = modelOf({ ...config, head_dim: 64, rope_scaling: llama3 }).rotary.frequencies
    expect(scaled[0]).toBe(plain[0])
    expect(scaled.at(-1)).toBeCloseTo(plain.at(-1)! / 8, 9)
    const between = scaled.filter((frequency, i) => frequency < plain[i]! * 0.999 && frequency > plain[i]! / 7.999)
    expect(between.length).toBeGreaterThan(0)
  })

  it.each([
    [{ rope_scaling: { type: 'longrope', factor: 4 } }, 'longrope'],
    [{ rope_parameters: { full_attention: { rope_type: 'default' } } }, 'full_attention'],
    [{ partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
    [{ attention_chunk_size: 8192 }, 'chunks'],
    [{ rope_scaling: { rope_type: 'linear' } }, 'factor'],
    [{ rope_scaling: { rope_type: 'linear', factor: 0.5 } }, 'factor is 0.5, less than 1'],
    [{ rope_scaling: { rope_type: 'yarn', original_max_position_embeddings: 4096 } }, 'factor is 0.5, less than 1'],
    [{ rope_scaling: 'linear' }, 'rope_scaling is "linear"'],
    [{ rope_parameters: [{ rope_theta: 5e5 }] }, 'rope_parameters is [{"rope_theta":500000}]'],
    [{ rope_theta: Number.MIN_VALUE }, 'give no angles'],
    [{ rope_theta: 1, rope_scaling: { rope_type: 'yarn', factor: 2 } }, 'give no angles'],
    [{ model_type: 'mistral' }, 'model_type "mistral" is not that of its architecture LlamaForCausalLM, llama'],
    [{ auto_map: { AutoModelForCausalLM: 'modeling.Mine' } }, 'code of its own (auto_map in config.json)'],
    [{ hidden_act: 'gelu' }, 'hidden_act'],
    [{ num_key_value_heads: 3 }, 'do not divide'],
    [{ hidden_size: 0 }, 'hidden_size']
  ])('refuses %j', (change, reason) => {
    expect(() => modelOf({ ...config, ...change })).toThrow(reason)
  })
})

it('a configuration may nest as deep as JSON can without spoiling the error', () => {
  const deep: unknown = JSON.parse('['.repeat(1e5) + ']'.repeat(1e5))
  expect(() => modelOf({ ...config, rope_theta: deep })).toThrow('rope_theta is an array too deep to show')
  expect(() => modelOf({ ...config, architectures: [deep] })).toThrow('the architecture an array too deep to show is not supported')
})

describe('rotaryTables', () => {
  it('holds cos and sin of position times frequency', () => {
    const { cos, sin } = rotaryTables(modelOf(config).rotary, 5)
    expect(cos.shape).toEqual([5, 4])
    expect(cos.data[4 * 3 + 1]).toBeCloseTo(Math.cos(3 * 10000 ** -0.25), 6)
    expect(sin.data[4 * 3 + 1]).toBeCloseTo(Math.sin(3 * 10000 ** -0.25), 6)
  })
})
