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
  /** Tokens that end an answer, where those at which generation stops are not all. */
  readonly ends?: readonly string[]
  /** What the template has the model write before an answer. */
  readonly opening?: string
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
  },
  // The answer is behind words of the prompt that are no tokens of their own, and a space.
  'DeepSeek-V2': {
    template: "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}{% elif m.role == 'assistant' %}{{ 'Assistant: ' + m.content + eos_token }}{% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
    special: ['<b>', '<e>'], eos: ['<e>'], bos: '<b>', system: true
  },
  // The end of a text follows the last answer, which has an end of its own.
  'Phi-3': {
    template: "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}",
    special: ['<|endoftext|>', '<|end|>', '<|system|>', '<|user|>', '<|assistant|>'], eos: ['<|endoftext|>', '<|end|>'], system: true
  },
  'Phi-4': {
    template: "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    special: ['<|endoftext|>', '<|im_start|>', '<|im_sep|>', '<|im_end|>'], eos: ['<|im_end|>'], system: true
  },
  'OLMo 2 and Zephyr': {
    template: "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + (eos_token if m.role == 'assistant' else '') + '\n' }}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
    special: ['<s>', '</s>'], eos: ['</s>'], bos: '<s>', system: true
  },
  'Command R': {
    template: "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|><|' + {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[m.role] + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
    special: ['<BOS_TOKEN>', '<|START_OF_TURN_TOKEN|>', '<|END_OF_TURN_TOKEN|>', '<|SYSTEM_TOKEN|>', '<|USER_TOKEN|>', '<|CHATBOT_TOKEN|>'], eos: ['<|END_OF_TURN_TOKEN|>'], bos: '<BOS_TOKEN>', system: true
  },
  // A question brings what asks for its answer, whoever asks.
  Yi: {
    template: "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n<|im_start|>assistant\n' }}{% elif m.role == 'assistant' %}{{ m.content + '<|im_end|>\n' }}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    special: ['<|im_start|>', '<|im_end|>'], eos: ['<|im_end|>'], system: true
  },
  // Nothing ends an answer.
  Falcon: {
    template: "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{{ {'system': 'System', 'user': 'User', 'assistant': 'Falcon'}[m.role] }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '\nFalcon:' }}{% endif %}",
    special: ['<|endoftext|>'], eos: ['<|endoftext|>'], system: true
  },
  MiniCPM: {
    template: "{% for m in messages %}{{ '<用户>' + m.content.strip() + '<AI>' if m.role == 'user' else m.content.strip() }}{% endfor %}",
    special: ['<s>', '</s>'], eos: ['</s>'], system: false
  },
  // The system message is a part of the first question.
  'Gemma 3': {
    template: "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}" +
      "{% for m in rest %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (first if loop.first else '') }}{% if m.content is string %}{{ m.content | trim }}{% elif m.content is iterable %}{% for part in m.content %}{{ part.text | trim }}{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    special: ['<bos>', '<eos>', '<start_of_turn>', '<end_of_turn>'], eos: ['<end_of_turn>'], bos: '<bos>', system: true
  },
  // The system message is written where a question is the last message alone, and a space before each answer.
  'Mistral v0.3 as it is published': {
    template: "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}{{ '[INST] ' + (system + '\n\n' if loop.last and system is defined else '') + m.content + '[/INST]' }}{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}",
    special: ['<s>', '</s>', '[INST]', '[/INST]'], eos: ['</s>'], bos: '<s>', system: true
  },
  // The block that it marks as the assistant's begins with what asks for the answer.
  SmolLM3: {
    template: "{{ '<|im_start|>system\n' + (messages[0].content if messages[0].role == 'system' else '') ~ strftime_now('%d %B %Y') ~ '<|im_end|>\n' }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{% elif m.role == 'assistant' %}{% generation %}{{ '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    special: ['<|im_start|>', '<|im_end|>'], eos: ['<|im_end|>'], system: true
  },
  'gpt-oss': {
    template: "{{ '<|start|>system<|message|>' ~ strftime_now('%Y-%m-%d') ~ '<|end|>' }}{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking and loop.last %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + ('<|return|>' if loop.last else '<|end|>') }}{% else %}{{ '<|start|>' + {'system': 'developer'}.get(m.role, m.role) + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}",
    special: ['<|start|>', '<|end|>', '<|message|>', '<|channel|>', '<|return|>', '<|call|>'], eos: ['<|return|>', '<|call|>'], system: true,
    ends: ['<|return|>', '<|end|>'], opening: '<|channel|>final<|message|>'
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
        const end = (family.ends ?? family.eos).find((token) => text.endsWith(token))
        expect(end).toBeDefined()
        const opening = family.opening ?? '<think>\n\n</think>\n\n'
        const answer = text.slice(text.startsWith(opening) ? opening.length : 0, text.length - end!.length)
        expect(answer.trim()).toBe(turns[i]![1])
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

  it('has its thought under the name that gpt-oss\'s template reads', () => {
    const messages = [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b', reasoning_content: 'c' }]
    expect(counted(messages, tokenizerOf(families['gpt-oss']!)))
      .toEqual(['<|channel|>analysis<|message|>c<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>'])
  })

  it('is used with a remark where the template leaves out a part of a message, as DeepSeek\'s does a thought', () => {
    const record = (content: string) => ({ kind: 'chat' as const, messages: [{ role: 'user', content: 'a' }, { role: 'assistant', content }], learnFrom: 0 })
    const notices = (content: string) => examplesOf(record(content), tokenizerOf(families.DeepSeek!), { lossOn: 'completion' }).notices
    expect(notices('<think>why</think>b')).toEqual(['has a part in message 2 that the chat template does not write'])
    expect(notices(' b\n')).toEqual([])
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
