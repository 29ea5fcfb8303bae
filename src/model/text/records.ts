import { z } from 'zod'
import type { ChatMessage } from './chat-template.ts'

/** A training record in one of three shapes; every accepted value becomes one of them. */
export type DataRecord =
  | { readonly kind: 'text', readonly text: string }
  | { readonly kind: 'completion', readonly prompt: string, readonly completion: string }
  /** Of the messages before `learnFrom`, which are a prompt, and of `unlearnt`, none is to be learnt. */
  | {
    readonly kind: 'chat'
    readonly messages: readonly ChatMessage[]
    readonly learnFrom: number
    readonly unlearnt?: ReadonlySet<number>
  }

/** Which column stands for which field: `{ completion: 'answer' }`. */
export type Columns = Readonly<Record<string, string>>

/** Why a value cannot be used. */
export type Refused = { readonly reason: string }

const tools = 'conversations with tools are not read'

/** Templates would write these, and here nobody gives them. */
const noTools = z.union([z.null(), z.tuple([])], tools).optional()

const part = z.union([z.string(), z.object({ type: z.literal('text', 'content with parts other than text is not read'), text: z.string() })])

/** Joins the parts of a text: each stands on lines of its own, as servers that take such messages write them. */
export function joinParts (parts: ReadonlyArray<string | { readonly text: string }>): string {
  return parts.map((each) => typeof each === 'string' ? each : each.text).join('\n')
}

const content = z.union([
  z.string(),
  z.array(part).transform(joinParts)
])

const message = z.object({
  role: z.string().min(1),
  content,
  reasoning_content: z.string().nullish(),
  name: z.string().nullish(),
  weight: z.number().nullish(),
  train: z.boolean().nullish(),
  tool_calls: noTools,
  function_call: z.null(tools).optional()
})
type Message = z.infer<typeof message>

const roles: Readonly<Record<string, string>> = {
  human: 'user', user: 'user', gpt: 'assistant', assistant: 'assistant', chatgpt: 'assistant', bot: 'assistant', model: 'assistant', system: 'system'
}

/** A message of ShareGPT, in the field's own words. */
const shared = z.object({ from: z.string().refine((from) => Object.hasOwn(roles, from.toLowerCase()), 'is no role that is read'), value: content })
  .transform(({ from, value }): Message => ({ role: roles[from.toLowerCase()]!, content: value }))

const messages = z.array(z.union([message, shared])).min(1)
const text = z.string()
const system = z.string().nullish()
const history = z.array(z.tuple([z.string(), z.string()])).nullish()

/** The names that fields have in other data sets, by ours. The first that has a value counts. */
const questions = ['instruction', 'question', 'query', 'prompt', 'content', 'dialogue', 'input'] as const
const answers: Readonly<Record<typeof questions[number], readonly string[]>> = {
  instruction: ['output', 'response', 'answer'],
  question: ['answer', 'response'],
  query: ['response', 'answer'],
  prompt: ['response', 'answer'],
  content: ['summary'],
  dialogue: ['summary'],
  input: ['output']
}

/**
 * Reads one line of JSONL as `recordOf` reads its value. Returns the record, or the reason why the line is none.
 */
export function parseRecord (line: string, chatInstructions: boolean): DataRecord | Refused {
  try {
    return recordOf(JSON.parse(line), chatInstructions)
  } catch {
    return { reason: 'is not valid JSON' }
  }
}

/**
 * Reads a value as a record, by the fields that have a value: `messages` or `conversations`; `prompt` and `completion`, both texts or both
 * lists of messages; a question and its answer under one of the names of docs/data.md, with a `system`, an `input` and a `history` where
 * there are some; or `text`. `chatInstructions`: whether a question becomes a conversation rather than plain text.
 */
export function recordOf (given: unknown, chatInstructions: boolean, columns: Columns = {}): DataRecord | Refused {
  const fields = fieldsOf(given, columns)
  if ('reason' in fields) return fields
  const { value } = fields
  const has = (name: string): boolean => Object.hasOwn(value, name)
  const conversation = ['messages', 'conversations', 'conversation'].find((name) => Array.isArray(value[name]) && !(name !== 'messages' && value[name].length === 0))
  if (conversation !== undefined)
    return check(z.object({ [conversation]: messages, tools: noTools, functions: noTools, system }), value, (parsed) =>
      chat(parsed[conversation] as Message[], 0, parsed.system as string | undefined))
  if (has('messages')) return check(z.object({ messages }), value, () => ({ reason: 'has no messages' }))
  if (Array.isArray(value.prompt))
    return check(z.object({ prompt: messages, completion: messages, tools: noTools, system }), value, ({ prompt, completion, system }) =>
      chat([...prompt, ...completion], prompt.length, system))
  if (has('prompt') && (has('completion') || !answers.prompt.some(has)))
    return check(z.object({ prompt: text, completion: text, system }), value, ({ prompt, completion, system }) =>
      ({ kind: 'completion', prompt: system === undefined || system === null || system === '' ? prompt : `${system}\n${prompt}`, completion }))
  const question = questions.find((name) => has(name) && answers[name].some(has)) ?? (has('instruction') ? 'instruction' : undefined)
  if (question !== undefined) {
    const answer = answers[question].find(has) ?? 'output'
    const shape = z.object({ [question]: text, [answer]: text, input: question === 'input' ? text : text.nullish(), system, history })
    return check(shape, value, (parsed) => instruction({
      question: [parsed[question], ...(question === 'instruction' ? [parsed.input] : [])].filter((each) => typeof each === 'string' && each !== '').join('\n'),
      answer: parsed[answer] as string,
      system: parsed.system as string | undefined,
      history: parsed.history as Array<[string, string]> | undefined
    }, chatInstructions))
  }
  if (has('text')) return check(z.object({ text }), value, ({ text }) => ({ kind: 'text', text }))
  return { reason: 'has none of the fields text, messages, prompt, instruction (docs/data.md lists the formats; --map names other columns)' }
}

/** Returns the fields of a value that have one, under the names that stand for its columns. */
export function fieldsOf (given: unknown, columns: Columns = {}): { readonly value: Readonly<Record<string, unknown>> } | Refused {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) return { reason: 'is not a JSON object' }
  const renamed = { ...given as Record<string, unknown> }
  for (const [field, column] of Object.entries(columns)) {
    if (!Object.hasOwn(given, column)) return { reason: `has no column ${column}, which --map names` }
    if (field !== column) delete renamed[column]
    renamed[field] = (given as Record<string, unknown>)[column]
  }
  return { value: Object.fromEntries(Object.entries(renamed).filter(([, each]) => each !== null && each !== undefined)) }
}

function check<T> (shape: z.ZodType<T>, value: unknown, use: (parsed: T) => DataRecord | Refused): DataRecord | Refused {
  const parsed = shape.safeParse(value)
  if (parsed.success) return use(parsed.data)
  const issue = deepest(parsed.error.issues[0]!)
  return { reason: `${issue.path.join('.')}: ${issue.message}` }
}

/** Returns the issue of the first alternative, where there are several: that of the field's own format. */
function deepest (issue: z.core.$ZodIssue): { path: PropertyKey[], message: string } {
  if (issue.code !== 'invalid_union' || issue.message === tools) return issue
  const [first] = issue.errors[0] ?? []
  if (first === undefined) return issue
  const inner = deepest(first)
  return { path: [...issue.path, ...inner.path], message: inner.message }
}

function chat (given: readonly Message[], learnFrom: number, system?: string | null): DataRecord | Refused {
  const hasSystem = typeof system === 'string' && system !== ''
  if (hasSystem && given[0]!.role === 'system') return { reason: 'has a system text and a message by the system: only one can be told' }
  const all = hasSystem ? [{ role: 'system', content: system }, ...given] as Message[] : given
  const from = learnFrom === 0 ? 0 : learnFrom + all.length - given.length
  const unlearnt = new Set(all.flatMap(({ weight, train }, i) => weight === 0 || train === false ? [i] : []))
  const other = all.findIndex(({ weight }) => weight !== undefined && weight !== null && weight !== 0 && weight !== 1)
  if (other >= 0) return { reason: `messages.${other}.weight: only 0 and 1 are read` }
  const messages = all.map(({ role, content, name, reasoning_content: thought }): ChatMessage => ({
    role,
    content,
    ...(typeof thought === 'string' && thought !== '' ? { reasoning_content: thought } : {}),
    ...(typeof name === 'string' && name !== '' ? { name } : {})
  }))
  if (!messages.some(({ role }, i) => i >= from && role === 'assistant')) return { reason: 'has no message by the assistant' }
  if (!messages.some(({ role }, i) => i >= from && role === 'assistant' && !unlearnt.has(i))) return { reason: 'has no message to learn' }
  return { kind: 'chat', messages, learnFrom: from, ...(unlearnt.size === 0 ? {} : { unlearnt }) }
}

/** A question with its answer. */
export interface Instruction {
  readonly question: string
  readonly answer: string
  readonly system?: string | undefined
  readonly history?: ReadonlyArray<readonly [string, string]> | undefined
}

/** Makes a question with its answer into a conversation, or into plain text with the answer on a line of its own. */
export function instruction ({ question, answer, system, history }: Instruction, asChat: boolean): DataRecord | Refused {
  const earlier = history ?? []
  if (!asChat && earlier.length > 0) return { reason: 'has a history, which only a model with a chat template is told' }
  const opening = typeof system === 'string' && system !== '' ? [system] : []
  if (!asChat) return { kind: 'completion', prompt: `${[...opening, question].filter((each) => each !== '').join('\n')}\n`, completion: answer }
  const rounds = [...earlier, [question, answer] as const].flatMap(([asked, answered]) =>
    [{ role: 'user', content: asked }, { role: 'assistant', content: answered }])
  return { kind: 'chat', messages: [...opening.map((content) => ({ role: 'system', content })), ...rounds], learnFrom: 0 }
}
