import { describe, expect, it } from 'vitest'
import type { StoredDType } from '../../../src/model/checkpoint/dtypes.ts'
import {
  checkModel,
  checkTiedHead,
  checkWeights,
  clientTensors,
  modelOf,
  modelWeights,
  type Config,
  type TensorListing
} from '../../../src/model/families/index.ts'

const config = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2
}

type Tensors = Record<string, { dtype: StoredDType, shape: readonly number[] }>

/** The tensors of a model with this configuration. */
function tensorsOf (from: Config = config): Tensors {
  return Object.fromEntries(modelWeights(modelOf(from)).map(({ name, shape }) => [name, { dtype: 'BF16', shape }]))
}

function listing (tensors: Tensors): TensorListing {
  return { path: 'dir', tensorNames: () => Object.keys(tensors), has: (name) => name in tensors, info: (name) => tensors[name]! }
}

describe('a checkpoint and its configuration', () => {
  it.each([
    [
      'one block too few',
      { num_hidden_layers: 4 },
      'E_TENSOR_MISSING',
      'dir holds no tensor named model.layers.3.input_layernorm.weight: LlamaForCausalLM needs [16] there'
    ],
    [
      'one block too many',
      { num_hidden_layers: 2 },
      'E_TENSOR_MISMATCH',
      'dir: tensor model.layers.2.input_layernorm.weight has no place in LlamaForCausalLM as its configuration describes it, with 2 blocks'
    ],
    [
      'other heads',
      { num_key_value_heads: 4 },
      'E_TENSOR_MISMATCH',
      'dir: tensor model.layers.0.self_attn.k_proj.weight is [8, 16], and its configuration calls for [16, 16]'
    ],
    [
      'another vocabulary',
      { vocab_size: 33 },
      'E_TENSOR_MISMATCH',
      'dir: tensor model.embed_tokens.weight is [32, 16], and its configuration calls for [33, 16]'
    ],
    [
      'biases that it does not name',
      { attention_bias: true },
      'E_TENSOR_MISSING',
      'self_attn.q_proj.bias: LlamaForCausalLM needs [16] there'
    ]
  ])('are told apart: %s', (_, changes, code, message) => {
    const check = (): void => { checkModel(modelOf({ ...config, ...changes }), listing(tensorsOf())) }
    expect(check).toThrow(message)
    expect(check).toThrow(expect.objectContaining({ code }) as Error)
  })

  it('are told apart where the checkpoint has biases of which the configuration does not speak', () => {
    expect(() => {
      checkModel(modelOf(config), listing(tensorsOf({ ...config, mlp_bias: true })))
    }).toThrow('model.layers.0.mlp.gate_proj.bias has no place')
  })

  it('agree where nothing contradicts', () => {
    for (const tied of [false, true])
      checkModel(modelOf({ ...config, tie_word_embeddings: tied }), listing(tensorsOf({ ...config, tie_word_embeddings: tied })))
  })

  it('name every tensor that is missing, of another shape or of another type, whichever it is', () => {
    for (const name of Object.keys(tensorsOf())) {
      const { [name]: found, ...rest } = tensorsOf()
      expect(() => {
        checkModel(modelOf(config), listing(rest))
      }).toThrow(`dir holds no tensor named ${name}`)
      expect(() => {
        checkModel(modelOf(config), listing({ ...rest, [name]: { dtype: 'BF16', shape: [...found!.shape, 1] } }))
      }).toThrow(`dir: tensor ${name} is [`)
      expect(() => {
        checkModel(modelOf(config), listing({ ...rest, [name]: { dtype: 'I8', shape: found!.shape } }))
      }).toThrow(`dir: tensor ${name} holds I8 values`)
    }
  })
})

describe('a tied head', () => {
  const tied = modelOf({ ...config, tie_word_embeddings: true })

  it('may be stored, if it is the embedding', () => {
    checkModel(tied, listing(tensorsOf()))
    checkTiedHead(tied, 'dir', { 'model.embed_tokens.weight': { sha256: 'a' }, 'lm_head.weight': { sha256: 'a' } })
    checkTiedHead(tied, 'dir', { 'model.embed_tokens.weight': { sha256: 'a' } })
    expect(() => {
      checkTiedHead(tied, 'dir', { 'model.embed_tokens.weight': { sha256: 'a' }, 'lm_head.weight': { sha256: 'b' } })
    }).toThrow('dir: tensor lm_head.weight differs from model.embed_tokens.weight')
  })

  it('is what a checkpoint without a head calls for', () => {
    const { 'lm_head.weight': _, ...rest } = tensorsOf()
    expect(() => {
      checkModel(modelOf(config), listing(rest))
    }).toThrow('lm_head.weight: LlamaForCausalLM needs [32, 16] there, unless its configuration says tie_word_embeddings')
  })
})

it('a client asks only for what its ends need', () => {
  const names = clientTensors(modelOf(config), { inputBlocks: 1, outputBlocks: 0 })
  const ends = Object.fromEntries(Object.entries(tensorsOf()).filter(([name]) => names.includes(name)))
  checkWeights(modelOf(config), listing(ends), names)
  const { 'model.layers.0.mlp.up_proj.weight': _, ...rest } = ends
  expect(() => { checkWeights(modelOf(config), listing(rest), names) }).toThrow('model.layers.0.mlp.up_proj.weight')
})
