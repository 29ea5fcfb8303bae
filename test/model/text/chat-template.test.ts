import { describe, expect, it } from 'vitest'
import { ChatTemplate, readChatTemplate, type ChatMessage } from '../../../src/model/text/chat-template.ts'
import { readGolden } from '../../helpers/golden.ts'

interface Golden {
  readonly templates: Readonly<Record<string, string>>
  readonly cases: ReadonlyArray<
    { readonly template: string, readonly messages: readonly ChatMessage[], readonly addGenerationPrompt: boolean, readonly text: string }
  >
}

const golden = readGolden<Golden>('chat.json')
const question = [{ role: 'user', content: 'a' }]

describe('a chat template', () => {
  it.each(Object.keys(golden.templates))('writes what transformers writes: %s', (name) => {
    const template = new ChatTemplate(name, golden.templates[name]!)
    for (const { messages, addGenerationPrompt, text } of golden.cases.filter(({ template }) => template === name)) {
      expect(template.render(messages, { bos_token: '<s>', eos_token: '</s>' }, addGenerationPrompt)).toBe(text)
    }
  })

  it('is named when it refuses messages or cannot be read', () => {
    expect(() => readChatTemplate("{{ raise_exception('no users') }}", {})!.render(question, {}, false)).toThrow(
      'chat_template.jinja refuses these messages: no users'
    )
    expect(() => readChatTemplate(undefined, { chat_template: [{ name: 'default', template: '{% if %}' }] })).toThrow(
      'the chat_template "default" of tokenizer_config.json cannot be read'
    )
  })

  it('of chat_template.jinja comes before that of tokenizer_config.json', () => {
    expect(readChatTemplate('x', { chat_template: 'y' })!.render(question, {}, false)).toBe('x')
    expect(readChatTemplate(undefined, { chat_template: null })).toBeUndefined()
  })
})
