import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ChatTemplate, type ChatMessage } from '../../../src/model/text/chat-template.ts'
import { ToolCalls, type ReadPiece } from '../../../src/model/text/tool-calls.ts'
import { byteTokenizer } from '../../helpers/byte-tokenizer.ts'

function read (...pieces: string[]): ReadPiece {
  const reading = new ToolCalls()
  const read = [...pieces.map((piece) => reading.push(piece)), reading.end()]
  return { text: read.map(({ text }) => text).join(''), calls: read.flatMap(({ calls }) => calls) }
}

/** Cuts a text into pieces after these numbers of characters. */
function cut (text: string, lengths: readonly number[]): string[] {
  const pieces: string[] = []
  let at = 0
  for (const length of lengths) {
    pieces.push(text.slice(at, at + length))
    at += length
  }
  return [...pieces, text.slice(at)]
}

const lengths = fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 30 })
const part = fc.constantFrom('<tool_call>', '</tool_call>', '{"name":"f","arguments":{"a":[1]}}', '{"name":""}', ' \n', 'Text', '<tool', '{')

describe('calls of tools in a text', () => {
  it('are read with their arguments, and leave the text around them', () => {
    expect(read('Well.\n<tool_call>\n{"name": "f", "arguments": {"a": "</x>"}}\n</tool_call>\n<tool_call>{"name":"g"}</tool_call>\n')).toEqual({
      text: 'Well.', calls: [{ name: 'f', arguments: '{"a":"</x>"}' }, { name: 'g', arguments: '{}' }]
    })
    expect(read('<tool_call>{"name":"f","arguments":"{}"}')).toEqual({ text: '', calls: [{ name: 'f', arguments: '{}' }] })
  })

  it('are text where they are none', () => {
    for (const text of ['<tool_call>{"name": 1}</tool_call> !', 'a <tool_call>', '<tool_call>{"name":"f"', '<tool_call>x</tool_call>\n', `<tool_call>${'['.repeat(100_000)}`])
      expect(read(text)).toEqual({ text, calls: [] })
  })

  it('are the same however the text is cut into pieces', () => {
    fc.assert(fc.property(fc.array(part, { maxLength: 8 }), lengths, (parts, lengths) => {
      const text = parts.join('')
      expect(read(...cut(text, lengths))).toEqual(read(text))
    }))
  })

  it('change nothing in a text without tags, and hold back little of it', () => {
    fc.assert(fc.property(fc.string().filter((text) => !text.includes('<tool_call>')), lengths, (text, lengths) => {
      expect(read(...cut(text, lengths))).toEqual({ text, calls: [] })
    }))
    expect(new ToolCalls().push('plain').text).toBe('plain')
  })
})

describe('a chat template that tells of tools', () => {
  const source = '{% if tools %}{% for tool in tools %}{{ tool | tojson }}<tool_call>{% endfor %}{% endif %}{% for message in messages %}{{ message.role }}:{{ message.content }}{% for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %};{% endfor %}'
  const tool = { type: 'function', function: { name: 'f', parameters: { type: 'object', maximum: 2.5, nothing: null } } }
  const messages: ChatMessage[] = [
    { role: 'user', content: 'a' },
    { role: 'assistant', content: '', tool_calls: [{ type: 'function', function: { name: 'f', arguments: '{"x": [1, 2.0, true]}' } }] },
    { role: 'tool', content: 'b', tool_call_id: '1' }
  ]

  it('gets them as JSON, and the arguments of calls as what their text says', () => {
    expect(new ChatTemplate('it', source).render(messages, {}, true, [tool])).toBe(
      '{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "maximum": 2.5, "nothing": null}}}<tool_call>' +
        'user:a;assistant:f({"x": [1, 2, true]});tool:b;'
    )
  })

  it('is needed for tools, with a model that writes calls as they are read', () => {
    const tokenizer = (template: string): ReturnType<typeof byteTokenizer> => byteTokenizer(['</s>'], { chat_template: template }, ['</s>'])
    expect(tokenizer(source).encodeChatWithTools(messages, [tool]).length).toBeGreaterThan(100)
    expect(() => tokenizer("{{ messages[0]['content'] }}").encodeChatWithTools(messages, [tool])).toThrow('does not tell of tools')
    expect(() => tokenizer(`${source}<arg_key>`).encodeChatWithTools(messages, [tool])).toThrow('in a form that is not read')
  })
})
