import { z } from 'zod'
import type { ChatMessage } from './chat-template.ts'

/** A training record in one of three shapes; every accepted value becomes one of them. */
export type DataRecord = Shape & {
  /** Fields of the value, and of its messages, that have something and are not read; none when left out. */
  readonly unread?: readonly string[]
}

type Shape =
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

/** Whether a message is learnt, as data sets say it: OpenAI's by a weight, axolotl's by `train`, ms-swift's by `loss`. */
const flag = z.unknown().refine((value) => [undefined, null, true, false, 0, 1].includes(value as null), 'only 0 and 1, false and true are read').optional()

/** What a message may have beside its role and its content. */
const beside = {
  reasoning_content: z.string().nullish(),
  thinking: z.string().nullish(),
  reasoning: z.string().nullish(),
  name: z.string().nullish(),
  weight: flag,
  train: flag,
  loss: flag,
  tool_calls: noTools,
  function_call: z.null(tools).optional()
}
const flags = ['weight', 'train', 'loss'] as const

/** The names under which data sets have what the assistant thought, of which the first is that of chat templates. */
const thoughts = ['reasoning_content', 'thinking', 'reasoning'] as const

const message = z.looseObject({ role: z.string().min(1), content, ...beside })
const messageFields = message.shape
type Message = z.infer<typeof message>

/** Other names of the roles that chat templates know. */
const roles: Readonly<Record<string, string>> = {
  human: 'user', user: 'user', gpt: 'assistant', assistant: 'assistant', chatgpt: 'assistant', bot: 'assistant', model: 'assistant', system: 'system'
}

function roleOf (given: string): string {
  const name = given.trim().toLowerCase()
  return Object.hasOwn(roles, name) ? roles[name]! : given
}

/** A message of ShareGPT, in the field's own words. */
const shared = z.looseObject({
  from: z.string().refine((from) => Object.hasOwn(roles, from.trim().toLowerCase()), 'is no role that is read'), value: content, ...beside
}).transform(({ from, value, ...rest }): Message => ({ ...rest, role: from, content: value }))

/** A message in the words of either, of which it has the role or the sender. */
const turn = z.unknown().transform((given, context): Message => {
  const isShared = typeof given === 'object' && given !== null && 'from' in given && !('role' in given)
  const parsed = (isShared ? shared : message).safeParse(given)
  if (parsed.success) return parsed.data
  const { path, message: reason } = deepest(parsed.error.issues[0]!)
  context.issues.push({ code: 'custom', message: reason, path, input: given })
  return z.NEVER
})

const messages = z.array(turn).min(1)
const text = z.string()
const system = z.string().nullish()
const history = z.array(z.tuple([z.string(), z.string()])).nullish()

/** Names of a text that is told first. */
const systems = ['system', 'system_prompt'] as const

/** Fields that make a record of a value by themselves: an object with one of them holds no other records. */
const recordFields = ['messages', 'conversations', 'conversation', 'prompt', 'completion', 'text', 'instruction', 'question', 'query', 'input'] as const

/** Returns whether an object is a record itself, whatever lists it has. */
export function looksLikeRecord (value: object): boolean {
  return recordFields.some((name) => Object.hasOwn(value, name))
}

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

/** Names of conversations. */
const conversations = ['messages', 'conversations', 'conversation'] as const

/** Makes each schema once, when it is first asked for: Zod compiles it then, which takes as long as reading a hundred records. */
function once<Schema> (make: (...names: readonly string[]) => Schema): (...names: readonly string[]) => Schema {
  const made = new Map<string, Schema>()
  return (...names) => {
    const key = names.join('/')
    const known = made.get(key) ?? make(...names)
    made.set(key, known)
    return known
  }
}

/** The shapes of records; that of a question and its answer has the names under which the record has them. */
const shapes = {
  conversation: once((name) => z.object({ [name]: messages, tools: noTools, functions: noTools, system })),
  noMessages: once(() => z.object({ messages })),
  promptMessages: once(() => z.object({ prompt: messages, completion: messages, tools: noTools, system })),
  promptTexts: once(() => z.object({ prompt: text, completion: text, system })),
  question: once((question, answer): z.ZodObject<Record<string, z.ZodType>> => z.object({
    [question]: text,
    [answer]: text,
    ...(question === 'instruction' ? { input: text.nullish(), context: text.nullish() } : {}),
    ...(question === 'question' ? { context: text.nullish() } : {}),
    system,
    history
  })),
  text: once(() => z.object({ text }))
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
  const told = withOneSystem(inRows(fields.value))
  if ('reason' in told) return told
  const { value } = told
  const has = (name: string): boolean => Object.hasOwn(value, name)
  const conversation = conversations.find((name) => Array.isArray(value[name]) && !(name !== 'messages' && value[name].length === 0))
  if (conversation !== undefined)
    return check(shapes.conversation(conversation), value, (parsed) =>
      chat(parsed[conversation] as Message[], 0, parsed.system as string | undefined))
  if (has('messages')) return check(shapes.noMessages(), value, () => ({ reason: 'has no messages' }))
  if (Array.isArray(value.prompt))
    return check(shapes.promptMessages(), value, ({ prompt, completion, system }) =>
      chat([...prompt, ...completion], prompt.length, system))
  if (has('prompt') && (has('completion') || !answers.prompt.some(has)))
    return check(shapes.promptTexts(), value, ({ prompt, completion, system }) =>
      ({ kind: 'completion', prompt: system === undefined || system === null || system === '' ? prompt : `${system}\n${prompt}`, completion }))
  const question = questions.find((name) => has(name) && answers[name].some(has)) ?? (has('instruction') ? 'instruction' : undefined)
  if (question !== undefined) {
    const answer = answers[question].find(has) ?? 'output'
    return check(shapes.question(question, answer), value, (parsed) => instruction({
      // An instruction comes before what it is about, and a question after it.
      question: [
        ...(question === 'question' ? [parsed.context] : []), parsed[question], ...(question === 'instruction' ? [parsed.input, parsed.context] : [])
      ].filter((each) => typeof each === 'string' && each !== '').join('\n'),
      answer: parsed[answer] as string,
      system: parsed.system as string | undefined,
      history: parsed.history as Array<[string, string]> | undefined
    }, chatInstructions))
  }
  if (has('text')) return check(shapes.text(), value, ({ text }) => ({ kind: 'text', text }))
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

/**
 * Returns the fields with conversations as lists of messages, also where there is a list for each field of them, as the library `datasets`
 * writes them.
 */
function inRows (value: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const changed = conversations.flatMap((name): Array<[string, unknown]> => {
    const columns = value[name]
    if (typeof columns !== 'object' || columns === null || Array.isArray(columns)) return []
    const entries = Object.entries(columns)
    const lengths = new Set(entries.map(([, column]) => Array.isArray(column) ? column.length : -1))
    const [length = -1] = lengths
    if (lengths.size !== 1 || length < 0) return []
    const row = (i: number): object => Object.fromEntries(entries.map(([field, column]) => [field, (column as unknown[])[i]]))
    return [[name, Array.from({ length }, (_, i) => row(i))]]
  })
  return changed.length === 0 ? value : { ...value, ...Object.fromEntries(changed) }
}

/** Returns the fields with the text that is told first under the name `system`. Refuses several of them. */
function withOneSystem (value: Readonly<Record<string, unknown>>): { readonly value: Readonly<Record<string, unknown>> } | Refused {
  const given = systems.filter((name) => Object.hasOwn(value, name) && value[name] !== '')
  if (given.length > 1) return { reason: `has ${given.join(' and ')}: only one can be told` }
  const [name] = given
  if (name === undefined || name === 'system') return { value }
  const { [name]: told, ...rest } = value
  return { value: { ...rest, system: told } }
}

function check<Shape extends z.ZodRawShape> (
  shape: z.ZodObject<Shape>,
  value: Readonly<Record<string, unknown>>,
  use: (parsed: z.output<z.ZodObject<Shape>>) => DataRecord | Refused
): DataRecord | Refused {
  const parsed = shape.safeParse(value)
  if (parsed.success) {
    const record = use(parsed.data)
    const unread = Object.keys(value).filter((name) => name !== '' && !Object.hasOwn(shape.shape, name) && hasSomething(value[name]))
    return 'reason' in record || unread.length === 0 ? record : { ...record, unread: [...unread, ...record.unread ?? []] }
  }
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
  const all = (hasSystem ? [{ role: 'system', content: system }, ...given] as Message[] : given).map((each) => ({ ...each, role: roleOf(each.role) }))
  const from = learnFrom === 0 ? 0 : learnFrom + all.length - given.length
  const isOff = (message: Message): boolean => flags.some((name) => message[name] === false || message[name] === 0)
  const unlearnt = new Set(all.flatMap((message, i) => isOff(message) ? [i] : []))
  const differing = all.findIndex((message) => new Set(thoughts.map((name) => message[name] ?? '').filter((thought) => thought !== '')).size > 1)
  if (differing >= 0) return { reason: `messages.${differing} has several thoughts (${thoughts.join(', ')}): only one can be told` }
  const messages = all.map(({ role, content, name, ...rest }): ChatMessage => {
    const thought = thoughts.map((each) => rest[each] ?? '').find((each) => each !== '')
    return {
      role,
      content,
      ...(thought === undefined ? {} : { reasoning_content: thought }),
      ...(typeof name === 'string' && name !== '' ? { name } : {})
    }
  })
  if (!messages.some(({ role }, i) => i >= from && role === 'assistant')) return { reason: 'has no message by the assistant' }
  if (!messages.some(({ role }, i) => i >= from && role === 'assistant' && !unlearnt.has(i))) return { reason: 'has no message to learn' }
  const unread = unreadIn(all)
  return { kind: 'chat', messages, learnFrom: from, ...(unlearnt.size === 0 ? {} : { unlearnt }), ...(unread.length === 0 ? {} : { unread }) }
}

/** Returns the fields of messages that have something and are not read, and wishes to learn what others than the assistant say. */
function unreadIn (all: readonly Message[]): string[] {
  return [...new Set(all.flatMap((message) => [
    ...Object.keys(message).filter((name) => !Object.hasOwn(messageFields, name) && hasSomething(message[name])).map((name) => `messages.${name}`),
    ...(message.role === 'assistant' ? [] : (['train', 'loss'] as const).filter((name) => message[name] === true).map((name) => `messages.${name} of the ${message.role}`))
  ]))]
}

function hasSomething (value: unknown): boolean {
  if (value === null || value === undefined || value === '') return false
  return typeof value !== 'object' || Object.keys(value).length > 0
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
