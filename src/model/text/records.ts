import { z } from 'zod'
import type { ChatMessage } from './chat-template.ts'

/** A training record in one of three shapes; every accepted line becomes one of them. */
export type DataRecord =
  | { readonly kind: 'text', readonly text: string }
  | { readonly kind: 'completion', readonly prompt: string, readonly completion: string }
  /** Of the messages before `learnFrom`, which are a prompt, none is to be learnt. */
  | { readonly kind: 'chat', readonly messages: readonly ChatMessage[], readonly learnFrom: number }

/** Templates would write these, and here nobody gives them. */
const noTools = z.union([z.null(), z.tuple([])], 'conversations with tools are not read').optional()

const message = z.object({ role: z.string().min(1), content: z.string(), tool_calls: noTools })
const messages = z.array(message).min(1)

const shapes = {
  text: z.object({ text: z.string() }),
  messages: z.object({ messages, tools: noTools }),
  completion: z.object({ prompt: z.string(), completion: z.string() }),
  chatCompletion: z.object({ prompt: messages, completion: messages, tools: noTools }),
  instruction: z.object({
    instruction: z.string(),
    input: z.string().nullish(),
    output: z.string(),
    system: z.string().nullish(),
    history: z.array(z.tuple([z.string(), z.string()])).nullish()
  })
}

/**
 * Reads one line of JSONL: `text`; `messages`; `prompt` and `completion`, both texts or both lists of messages; or `instruction`, `input`
 * and
 * `output`, with a `system` and a `history` of questions and answers where there are some. Returns the record, or the reason why the line
 * is
 * none. `chatInstructions`: whether an instruction becomes a conversation rather than plain text.
 */
export function parseRecord (line: string, chatInstructions: boolean): DataRecord | { readonly reason: string } {
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return { reason: 'is not valid JSON' }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return { reason: 'is not a JSON object' }
  if ('messages' in value) return check(shapes.messages, value, ({ messages }) => chat(messages, 0))
  if ('prompt' in value) {
    if (Array.isArray(value.prompt))
      return check(shapes.chatCompletion, value, ({ prompt, completion }) =>
        chat([...prompt, ...completion], prompt.length))
    return check(shapes.completion, value, ({ prompt, completion }) => ({ kind: 'completion', prompt, completion }))
  }
  if ('instruction' in value) return check(shapes.instruction, value, (parsed) => instruction(parsed, chatInstructions))
  if ('text' in value) return check(shapes.text, value, ({ text }) => ({ kind: 'text', text }))
  return { reason: 'has none of the fields text, messages, prompt, instruction' }
}

function check<T> (
  shape: z.ZodType<T>,
  value: unknown,
  use: (parsed: T) => DataRecord | { reason: string }
): DataRecord | { reason: string } {
  const parsed = shape.safeParse(value)
  if (parsed.success) return use(parsed.data)
  const issue = parsed.error.issues[0]!
  return { reason: `${issue.path.join('.')}: ${issue.message}` }
}

function chat (given: ReadonlyArray<z.infer<typeof message>>, learnFrom: number): DataRecord | { reason: string } {
  const messages = given.map(({ role, content }): ChatMessage => ({ role, content }))
  return messages.some(({ role }, i) => i >= learnFrom && role === 'assistant')
    ? { kind: 'chat', messages, learnFrom }
    : { reason: 'has no message by the assistant' }
}

function instruction (
  { instruction, input, output, system, history }: z.infer<typeof shapes.instruction>,
  asChat: boolean
): DataRecord | { reason: string } {
  const earlier = history ?? []
  const prompt = [instruction, input].filter((part) => part !== undefined && part !== null && part !== '').join('\n')
  if (!asChat && earlier.length > 0) return { reason: 'has a history, which only a model with a chat template is told' }
  if (!asChat)
    return {
      kind: 'completion',
      prompt: `${[system, prompt].filter((part) => typeof part === 'string' && part !== '').join('\n')}\n`,
      completion: output
    }
  const opening = typeof system === 'string' && system !== '' ? [{ role: 'system', content: system }] : []
  const rounds = [...earlier, [prompt, output] as const].flatMap((
    [question, answer]
  ) => [{ role: 'user', content: question }, { role: 'assistant', content: answer }])
  return { kind: 'chat', messages: [...opening, ...rounds], learnFrom: 0 }
}
