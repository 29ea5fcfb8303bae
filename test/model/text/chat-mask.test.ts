import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { maskChat } from '../../../src/model/text/chat-mask.ts'
import type { ChatMessage } from '../../../src/model/text/chat-template.ts'
import { examplesOf } from '../../../src/model/text/dataset.ts'
import type { Tokenizer } from '../../../src/model/text/tokenizer.ts'
import { byteTokenizer } from '../../helpers/byte-tokenizer.ts'

interface Family {
  readonly template: string
  readonly special: readonly string[]
  readonly eos: readonly string[]
  readonly bos?: string
  /** Whether a system message is written. */
  readonly system: boolean
}

/** Chat templates written from the prompt formats that the models' makers publish. */
const families: Readonly<Record<string, Family>> = {
  'Llama-2': {
    template: "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}" +
      "{% for m in rest %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    special: ['<s>', '</s>'], eos: ['</s>'], bos: '<s>', system: true
  },
  'Llama-3': {
    template: "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    special: ['<|begin_of_text|>', '<|end_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'], eos: ['<|end_of_text|>', '<|eot_id|>'], bos: '<|begin_of_text|>', system: true
  },
  'Mistral v0.1': {
    template: "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
    special: ['<s>', '</s>'], eos: ['</s>'], bos: '<s>', system: false
  },
  'Mistral v0.3': {
    template: "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}{{- bos_token }}" +
      "{%- for m in rest %}{%- if m.role == 'user' %}{%- if loop.last or loop.index0 == (rest | length) - 2 %}{{- '[INST] ' + (system + '\n\n' if system is defined else '') + m.content + '[/INST]' }}{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}{%- endfor %}",
    special: ['<s>', '</s>', '[INST]', '[/INST]'], eos: ['</s>'], bos: '<s>', system: true
  },
  // Without tools. It writes the system message into a question that is the last message, and nowhere where an answer is the last.
  'Mistral Nemo': {
    template: '{%- if messages[0]["role"] == "system" %}\n    {%- set system_message = messages[0]["content"] %}\n    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n' +
      '{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}\n\n{#- Roles have to alternate. #}\n{%- set ns = namespace() %}\n{%- set ns.index = 0 %}\n' +
      '{%- for message in loop_messages %}\n    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}\n        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}\n            {{- raise_exception("roles must alternate") }}\n        {%- endif %}\n        {%- set ns.index = ns.index + 1 %}\n    {%- endif %}\n{%- endfor %}\n\n' +
      '{{- bos_token }}\n{%- for message in loop_messages %}\n    {%- if message["role"] == "user" %}\n        {%- if tools is not none and (message == user_messages[-1]) %}\n            {{- "[AVAILABLE_TOOLS][" }}\n            {{- "[/AVAILABLE_TOOLS]" }}\n        {%- endif %}\n        {%- if loop.last and system_message is defined %}\n            {{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}\n        {%- else %}\n            {{- "[INST]" + message["content"] + "[/INST]" }}\n        {%- endif %}\n' +
      '    {%- elif message["role"] == "assistant" %}\n        {{- message["content"] + eos_token }}\n    {%- else %}\n        {{- raise_exception("Only user and assistant roles are supported") }}\n    {%- endif %}\n{%- endfor %}\n',
    special: ['<s>', '</s>', '[INST]', '[/INST]', '[AVAILABLE_TOOLS]', '[/AVAILABLE_TOOLS]'], eos: ['</s>'], bos: '<s>', system: true
  },
  // Without tools. It writes a system message of its own where there is none.
  'Qwen2.5': {
    template: "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n{%- else %}\n    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}\n{%- endif %}\n" +
      "{%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or (message.role == \"assistant\" and not message.tool_calls) %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n    {%- elif message.role == \"assistant\" %}\n        {{- '<|im_start|>' + message.role }}\n        {%- if message.content %}\n            {{- '\\n' + message.content }}\n        {%- endif %}\n        {{- '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n" +
      "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
    special: ['<|endoftext|>', '<|im_start|>', '<|im_end|>'], eos: ['<|im_end|>', '<|endoftext|>'], system: true
  },
  Qwen3: {
    template: "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}" +
      "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' %}{%- set content = m.content.split('</think>')[-1].lstrip('\n') %}" +
      "{%- if loop.index0 > ns.last %}{{- '<think>\n' + (m.reasoning_content | default('')).strip('\n') + '\n</think>\n\n' + content }}{%- else %}{{- content }}{%- endif %}{%- else %}{{- m.content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}",
    special: ['<|endoftext|>', '<|im_start|>', '<|im_end|>'], eos: ['<|im_end|>', '<|endoftext|>'], system: true
  },
  'GLM-4': {
    template: "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    special: ['[gMASK]', '<sop>', '<|endoftext|>', '<|system|>', '<|user|>', '<|assistant|>', '<|observation|>'], eos: ['<|endoftext|>', '<|user|>', '<|observation|>'], system: true
  },
  ChatML: {
    template: "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    special: ['<|endoftext|>', '<|im_start|>', '<|im_end|>'], eos: ['<|im_end|>'], system: true
  },
  Gemma: {
    template: "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    special: ['<bos>', '<eos>', '<start_of_turn>', '<end_of_turn>'], eos: ['<eos>', '<end_of_turn>'], bos: '<bos>', system: false
  },
  DeepSeek: {
    template: "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
    special: ['<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜User｜>', '<｜Assistant｜>'], eos: ['<｜end▁of▁sentence｜>'], bos: '<｜begin▁of▁sentence｜>', system: true
  }
}

function tokenizerOf ({ template, special, eos, bos }: Family): Tokenizer {
  return byteTokenizer(special, { chat_template: template, eos_token: eos[0], ...(bos === undefined ? {} : { bos_token: bos }) }, eos)
}

/** A run of counted tokens, with what stands before it in its sequence. */
interface Counted {
  readonly before: string
  readonly answer: string
}

/** What is learnt of a conversation, in however many sequences. */
function learnt (messages: readonly ChatMessage[], tokenizer: Tokenizer): Counted[] {
  const { found, bad } = examplesOf({ kind: 'chat', messages, learnFrom: 0 }, tokenizer, { lossOn: 'completion' })
  if (bad !== undefined) throw new Error(bad)
  return found.flatMap(({ ids, lossMask }) => {
    const text = (from: number, to: number): string => tokenizer.decode([...ids.slice(from, to)], { skipSpecialTokens: false })
    const starts = [...lossMask.keys()].filter((i) => lossMask[i] === 1 && lossMask[i - 1] !== 1)
    return starts.map((start): Counted => {
      const end = lossMask.indexOf(0, start)
      return { before: text(0, start), answer: text(start, end < 0 ? ids.length : end) }
    })
  })
}

function counted (messages: readonly ChatMessage[], tokenizer: Tokenizer): string[] {
  return learnt(messages, tokenizer).map(({ answer }) => answer)
}

const word = fc.stringMatching(/^[a-z0-9é桥?!., \n]{0,12}$/).map((text) => `x${text}x`)

describe.each(Object.entries(families))('issue 9, A2: the mask of %s', (_, family) => {
  const tokenizer = tokenizerOf(family)
  const rounds = fc.array(fc.tuple(word, word), { minLength: 1, maxLength: 4 })

  it('counts each answer of a conversation, with its end, and nothing of the others', () => {
    fc.assert(fc.property(fc.option(word), rounds, (system, turns) => {
      const messages = [
        ...(system !== null && family.system ? [{ role: 'system', content: system }] : []),
        ...turns.flatMap(([asked, answered]) => [{ role: 'user', content: asked }, { role: 'assistant', content: answered }])
      ]
      const found = counted(messages, tokenizer)
      expect(found).toHaveLength(turns.length)
      for (const [i, text] of found.entries()) {
        const end = family.eos.find((token) => text.endsWith(token))
        expect(end).toBeDefined()
        expect(text.slice(0, text.length - end!.length).replace(/^<think>\n\n<\/think>\n\n/, '').trim()).toBe(turns[i]![1])
      }
    }), { numRuns: 40 })
  })
})

describe('issue 9, A2 and A6: a conversation', () => {
  it('counts the thought that is given, and names what the template does not write', () => {
    const messages = [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b', reasoning_content: 'c' }]
    expect(counted(messages, tokenizerOf(families.Qwen3!))).toEqual(['<think>\nc\n</think>\n\nb<|im_end|>'])
    expect(maskChat(messages, (i) => i === 1, tokenizerOf(families.ChatML!))).toMatchObject({ unused: ['reasoning_content'] })
  })

  it('is refused where the template leaves out a message or mixes an answer with others', () => {
    const messages = [{ role: 'system', content: 's' }, { role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }]
    const mask = (template: string): unknown => maskChat(messages, (i) => i === 2, tokenizerOf({ ...families.ChatML!, template }))
    expect(mask('{{ messages[1].content }}{{ messages[2].content }}')).toEqual({ reason: 'the chat template leaves out message 1, by the system' })
    expect(mask('{{ messages[0].content }}{{ messages[2].content }}{{ messages[1].content }}{{ messages[2].content }}'))
      .toMatchObject({ reason: expect.stringContaining('writes answer 3 among other messages') as string })
  })

  it('has each answer behind what asks for it where the template writes a message only then, as Mistral Nemo\'s its system message', () => {
    const tokenizer = tokenizerOf(families['Mistral Nemo']!)
    fc.assert(fc.property(word, fc.array(fc.tuple(word, word), { minLength: 1, maxLength: 3 }), (system, turns) => {
      const messages = [
        { role: 'system', content: system },
        ...turns.flatMap(([asked, answered]) => [{ role: 'user', content: asked }, { role: 'assistant', content: answered }])
      ]
      expect(learnt(messages, tokenizer)).toEqual(turns.map(([, answered], i) => ({
        before: tokenizer.applyChatTemplate(messages.slice(0, 2 + 2 * i), { addGenerationPrompt: true }),
        answer: `${answered}</s>`
      })))
    }), { numRuns: 40 })
  })

  it('is refused where the template asks for the answer in other words than those before the answer', () => {
    const messages = [{ role: 'system', content: 's' }, { role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }]
    const template = "{% if messages[-1].role == 'user' %}{{ messages[0].content }}{% endif %}{{ messages[1].content }}" +
      "{% if messages[-1].role == 'user' %}>{% else %}<{{ messages[2].content }}<|im_end|>{% endif %}"
    expect(maskChat(messages, (i) => i === 2, tokenizerOf({ ...families.ChatML!, template })))
      .toEqual({ reason: 'the chat template leaves out message 1, by the system' })
  })

  it('is marked by the generation blocks of a template that has them', () => {
    const template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}>{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    expect(counted([{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }], tokenizerOf({ ...families.ChatML!, template })))
      .toEqual(['>b<|im_end|>'])
  })
})
