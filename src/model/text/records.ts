import { z } from 'zod'
import type { ChatMessage } from './chat-template.ts'

/** A training record in one of three shapes; every accepted line becomes one of them. */
export type DataRecord =
  | { readonly kind: 'text', readonly text: string }
  | { readonly kind: 'completion', readonly prompt: string, readonly completion: string }
  | { readonly kind: 'chat', readonly messages: readonly ChatMessage[] }

const message = z.object({ role: z.string().min(1), content: z.string() })
const messages = z.array(message).min(1)

const shapes = {
  text: z.object({ text: z.string() }),
  messages: z.object({ messages }),
  completion: z.object({ prompt: z.string(), completion: z.string() }),
  chatCompletion: z.object({ prompt: messages, completion: messages }),
  instruction: z.object({ instruction: z.string(), input: z.string().nullish(), output: z.string(), system: z.string().nullish() })
}

/**
 * Reads one line of JSONL: `text`; `messages`; `prompt` and `completion`, both texts or both lists of messages; or `instruction`, `input` and `output`.
 * Returns the record, or the reason why the line is none. `chatInstructions`: whether an instruction becomes a conversation rather than plain text.
 */
export function parseRecord (line: string, chatInstructions: boolean): DataRecord | { readonly reason: string } {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return { reason: 'is not valid JSON' }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return { reason: 'is not a JSON object' }
  if ('messages' in value) return check(shapes.messages, value, ({ messages }) => chat(messages))
  if ('prompt' in value) {
    if (Array.isArray(value.prompt)) return check(shapes.chatCompletion, value, ({ prompt, completion }) => chat([...prompt, ...completion]))
    return check(shapes.completion, value, ({ prompt, completion }) => ({ kind: 'completion', prompt, completion }))
  }
  if ('instruction' in value) return check(shapes.instruction, value, parsed => instruction(parsed, chatInstructions))
  if ('text' in value) return check(shapes.text, value, ({ text }) => ({ kind: 'text', text }))
  return { reason: 'has none of the fields text, messages, prompt, instruction' }
}

function check<T> (shape: z.ZodType<T>, value: unknown, use: (parsed: T) => DataRecord | { reason: string }): DataRecord | { reason: string } {
  const parsed = shape.safeParse(value)
  if (parsed.success) return use(parsed.data)
  const issue = parsed.error.issues[0]!
  return { reason: `${issue.path.join('.')}: ${issue.message}` }
}

function chat (messages: ChatMessage[]): DataRecord | { reason: string } {
  return messages.some(({ role }) => role === 'assistant') ? { kind: 'chat', messages } : { reason: 'has no message by the assistant' }
}

function instruction ({ instruction, input, output, system }: z.infer<typeof shapes.instruction>, asChat: boolean): DataRecord {
  const prompt = [instruction, input].filter(part => part !== undefined && part !== null && part !== '').join('\n')
  if (!asChat) return { kind: 'completion', prompt: `${[system, prompt].filter(part => typeof part === 'string' && part !== '').join('\n')}\n`, completion: output }
  const opening = typeof system === 'string' && system !== '' ? [{ role: 'system', content: system }] : []
  return { kind: 'chat', messages: [...opening, { role: 'user', content: prompt }, { role: 'assistant', content: output }] }
}
