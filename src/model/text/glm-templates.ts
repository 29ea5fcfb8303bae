import { ChatTemplate } from './chat-template.ts'

// The prompts that the code published with ChatGLM builds (chat, build_prompt and build_chat_input of its modeling and tokenization files).

/** Refuses what cannot be told in rounds of a question and its answer, and counts the rounds. */
const rounds = `
{%- for message in messages %}
{%- if message.role != ['user', 'assistant'][loop.index0 % 2] %}{{ raise_exception('questions by the user and answers by the assistant must alternate') }}{% endif %}
{%- set round = loop.index0 // 2 %}`

/** A single question stands by itself; a longer conversation is numbered from 0. */
const chatGlm = `
{%- set numbered = messages | length > 2 %}${rounds}
{%- if message.role == 'assistant' %}{{ message.content }}{{ '' if loop.last else '\\n' }}
{%- elif numbered %}{{ '[Round ' ~ round ~ ']\\n问：' ~ message.content ~ '\\n答：' }}
{%- else %}{{ message.content }}{% endif %}
{%- endfor %}`

/** Rounds are numbered from 1; an answer that ends the conversation ends with </s>. */
const chatGlm2 = `${rounds}
{%- if message.role == 'user' %}{{ '[Round ' ~ (round + 1) ~ ']\\n\\n问：' ~ message.content ~ '\\n\\n答：' }}
{%- else %}{{ message.content ~ ('</s>' if loop.last else '\\n\\n') }}{% endif %}
{%- endfor %}`

/** Each turn begins with the token of its role and a line end; an answer that ends the conversation ends with </s>. */
const chatGlm3 = `
{{- '[gMASK]sop' }}
{%- for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant', 'observation'] %}{{ raise_exception('there is no role ' ~ message.role) }}{% endif %}
{{- '<|' ~ message.role ~ '|>\\n ' ~ message.content }}
{%- if loop.last and message.role == 'assistant' %}{{ '</s>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}`

/** Returns the chat template of a version of ChatGLM whose directory has none. */
export function glmTemplate (version: 1 | 2 | 3): ChatTemplate {
  const source = { 1: chatGlm, 2: chatGlm2, 3: chatGlm3 }[version]
  return new ChatTemplate(`the built-in chat template of ${version === 1 ? 'ChatGLM-6B' : `ChatGLM${version}`}`, source, version === 3)
}
