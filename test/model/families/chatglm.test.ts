import { describe, expect, it } from 'vitest'
import { chatglm } from '../../../src/model/families/chatglm.ts'
import {
  contextFault,
  clientTensors,
  familyOf,
  modelOf,
  PromptError,
  spanTensors,
  UnsupportedModelError
} from '../../../src/model/families/index.ts'
import { positionPairs } from '../../../src/model/families/prompts.ts'
import { chatglmRevisions, readChatGLMGolden } from '../../helpers/chatglm.ts'

const released = {
  architectures: ['ChatGLMModel'],
  model_type: 'chatglm',
  vocab_size: 150528,
  hidden_size: 4096,
  inner_hidden_size: 16384,
  num_layers: 28,
  num_attention_heads: 32,
  layernorm_epsilon: 1e-5,
  max_sequence_length: 2048,
  position_encoding_2d: true,
  bos_token_id: 150004,
  eos_token_id: 150005
}
const second = {
  ...released,
  vocab_size: 130528,
  bos_token_id: 130004,
  eos_token_id: 130005,
  mask_token_id: 130000,
  gmask_token_id: 130001,
  pre_seq_len: null,
  quantization_bit: 0
}
const prompts = (config: object) => modelOf({ ...config }).prompts!

describe('the original ChatGLM', () => {
  it.each(['ChatGLMModel', 'ChatGLMForConditionalGeneration'])('is known as %s by a size that ChatGLM2 does not have', (architecture) => {
    expect(familyOf({ ...released, architectures: [architecture] }).name).toBe('chatglm')
    expect(chatglm.recognizes?.({ architectures: [architecture], ffn_hidden_size: 13696, num_layers: 28 })).toBe(false)
  })

  it('is computed without the code that it is published with', () => {
    expect(modelOf({ ...released, auto_map: { AutoModel: 'modeling_chatglm.ChatGLMForConditionalGeneration' } }).architecture).toBe(
      'ChatGLMModel'
    )
  })

  it('has a head of its own unless its configuration ties it', () => {
    expect(modelOf(released).tied).toBe(false)
    expect(modelOf({ ...released, tie_word_embeddings: true }).tied).toBe(true)
  })

  it.each([
    [{ position_encoding_2d: false }, 'position_encoding_2d'],
    [{ quantization_bit: 4 }, 'quantised checkpoints are not supported'],
    [{ pre_seq_len: 128 }, 'prefix tuning is not supported'],
    [{ num_attention_heads: 33 }, 'do not divide'],
    [{ num_layers: 0 }, 'num_layers']
  ])('refuses %j', (change, reason) => {
    expect(() => modelOf({ ...second, ...change })).toThrow(UnsupportedModelError)
    expect(() => modelOf({ ...second, ...change })).toThrow(reason)
  })

  it.each(chatglmRevisions)('needs the tensors of the checkpoint, %s', (revision) => {
    const { config, shapes } = readChatGLMGolden(revision)
    const model = modelOf(config)
    const ends = clientTensors(model, { inputBlocks: 1, outputBlocks: 0 })
    expect([...ends, ...spanTensors(model, { first: 1, end: 3 })].sort()).toEqual(Object.keys(shapes).sort())
  })
})

describe('a prompt of ChatGLM', () => {
  it('is closed by [gMASK] and sop, whether a configuration names them or not', () => {
    expect(prompts(released).closing).toEqual([150001, 150004])
    expect(prompts(second).closing).toEqual([130001, 130004])
  })

  it('with both mask tokens takes its position from [MASK] in the first revision, and from [gMASK] in the second', () => {
    expect(prompts(released).context([7, 150000, 8, 150001, 150004], 'read')).toEqual({ length: 4, maskPosition: 1 })
    expect(prompts(second).context([7, 130000, 8, 130001, 130004], 'read')).toEqual({ length: 4, maskPosition: 3 })
  })

  it.each([[[7, 8]], [[7, 130004, 130001]], [[130004]], [[]]])('has no context without its end: %j', (ids) => {
    expect(() => prompts(second).context(ids, 'read')).toThrow(PromptError)
  })

  it.each(chatglmRevisions)('has the positions of the formulas, %s', (revision) => {
    const { config, ids, contexts } = readChatGLMGolden(revision)
    for (const [i, { contextLength, maskPosition, positions }] of contexts.entries()) {
      const { context } = modelOf(config).prompts!
      expect(context(ids[i]!, 'generated')).toEqual({ length: contextLength, maskPosition })
      const pairs = positionPairs(context(ids[i]!, 'read'), 0, positions.length)
      expect(pairs.filter((_, at) => at % 2 === 0)).toEqual(positions)
      expect(pairs.filter((_, at) => at % 2 === 1)).toEqual(positions.map((_, row) => Math.max(0, row - contextLength + 1)))
    }
  })
})

describe('contextFault', () => {
  it('takes a context that comes with a row after it, and rows after it', () => {
    expect(contextFault({ length: 3, maskPosition: 0 }, 0, 4)).toBeUndefined()
    expect(contextFault({ length: 3, maskPosition: 3 }, 3, 1)).toBeUndefined()
  })

  it.each([
    [{ length: 0, maskPosition: 0 }, 0, 4],
    [{ length: 4, maskPosition: 0 }, 0, 4],
    [{ length: 2 ** 32 - 1, maskPosition: 0 }, 0, 4],
    [{ length: 3, maskPosition: 4 }, 0, 4],
    [{ length: 3, maskPosition: 2 ** 32 - 1 }, 5, 1],
    [{ length: 3, maskPosition: 1 }, 2, 4]
  ])('refuses %j for rows from %i on, %i of them', (context, from, count) => {
    expect(contextFault(context, from, count)).toBeTypeOf('string')
  })
})
