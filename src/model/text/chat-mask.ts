import type { ChatMessage, RenderedChat } from './chat-template.ts'
import { TokenizerError } from './errors.ts'
import type { Mark } from './jinja/text.ts'
import { placeTokens } from './token-places.ts'
import type { Tokenizer } from './tokenizer.ts'

/** A conversation as tokens, with the ranges [first, end) of those that the assistant is to learn. */
export interface MaskedChat {
  readonly ids: number[]
  readonly answers: ReadonlyArray<readonly [number, number]>
  /** Fields of messages that the template does not write. */
  readonly unused: readonly string[]
  /** Messages of which the template writes a part only, counted from 1. */
  readonly partly: readonly number[]
}

/** The fields that are the assistant's own words. */
const answerFields: ReadonlySet<string> = new Set(['content', 'reasoning_content'])

/**
 * Encodes a conversation and finds the answers in it by where the template put each message. An answer begins where the template has the
 * assistant speak, and goes on through the token that ends it. One is added to the last answer where the template has none.
 * Where only the last message is learnt and the template writes the whole otherwise than it asks for that answer, the answer follows what
 * asks for it: some templates write the system message with a question that nobody has answered yet, and nowhere else.
 * Returns a reason where the template mixes an answer with other messages, leaves a message out, or does not end an answer.
 */
export function maskChat (
  messages: readonly ChatMessage[],
  learns: (message: number) => boolean,
  tokenizer: Tokenizer
): MaskedChat | { readonly reason: string } {
  const whole = tokenizer.renderChat(messages)
  const masked = maskRendered(whole, messages, learns, tokenizer)
  if (!('reason' in masked) || !messages.every((_, i) => learns(i) === (i === messages.length - 1))) return masked
  const asked = renderAsked(messages, whole, tokenizer)
  const again = asked === undefined ? masked : maskRendered(asked, messages, learns, tokenizer)
  return 'reason' in again ? masked : again
}

/**
 * Joins what the template writes to ask for the last message and that message as `told` has it: the answer begins where what asks for it
 * ends. Returns undefined where the two have something else between the last question and the answer, so that they are no two parts of one
 * conversation.
 */
function renderAsked (messages: readonly ChatMessage[], told: RenderedChat, tokenizer: Tokenizer): RenderedChat | undefined {
  const last = messages.length - 1
  const own = told.marks.filter(({ source }) => source.message === last)
  const others = told.marks.filter(({ source }) => source.message !== last)
  const start = Math.min(...own.filter(({ source }) => answerFields.has(source.field)).map((mark) => mark.start))
  if (start === Infinity || others.some(({ end }) => end > start)) return undefined
  const asked = renderPrompt(messages.slice(0, last), tokenizer)
  const asks = asked?.text.slice(lastEnd(asked.marks))
  if (asked === undefined || asks === undefined || !told.text.slice(lastEnd(others), start).startsWith(asks)) return undefined
  const from = lastEnd(others) + asks.length
  const shift = asked.text.length - from
  const moved = own.filter(({ start: at }) => at >= from)
    .map((mark): Mark => ({ ...mark, start: mark.start + shift, end: mark.end + shift }))
  const generated = told.generated.filter(([at]) => at >= from).map(([at, to]): readonly [number, number] => [at + shift, to + shift])
  const text = asked.text + told.text.slice(from)
  // What the template itself writes before the answer is learnt with it, as the model is to write it.
  return { text, marks: [...asked.marks, ...moved], generated: [...generated, [asked.text.length, text.length]] }
}

/** Renders what asks the assistant for its next message; undefined where the template refuses that. */
function renderPrompt (messages: readonly ChatMessage[], tokenizer: Tokenizer): RenderedChat | undefined {
  try {
    return tokenizer.renderChat(messages, { addGenerationPrompt: true })
  } catch (error) {
    if (error instanceof TokenizerError) return undefined
    throw error
  }
}

function lastEnd (marks: readonly Mark[]): number {
  return marks.reduce((most, { end }) => Math.max(most, end), 0)
}

function maskRendered (
  { text, marks, generated }: RenderedChat,
  messages: readonly ChatMessage[],
  learns: (message: number) => boolean,
  tokenizer: Tokenizer
): MaskedChat | { readonly reason: string } {
  let ids = tokenizer.encodeRendered(text)
  const places = placeTokens(text, ids, tokenizer)
  const unused = unusedFields(messages, marks)
  const lost = messages.findIndex(({ content }, i) => content.trim() !== '' && !marks.some(({ source }) => source.message === i && answerFields.has(source.field)))
  if (lost >= 0) return { reason: `the chat template leaves out message ${lost + 1}, by the ${messages[lost]!.role}` }
  const answers: Array<[number, number]> = []
  for (const [i] of messages.entries()) {
    const own = marks.filter(({ source }) => source.message === i && answerFields.has(source.field))
    if (!learns(i) || own.length === 0) continue
    const others = marks.filter(({ source }) => source.message !== i)
    const [start, end] = [Math.min(...own.map((mark) => mark.start)), Math.max(...own.map((mark) => mark.end))]
    if (others.some((mark) => mark.start < end && mark.end > start))
      return { reason: `the chat template writes answer ${i + 1} among other messages, so that it cannot be told what is learnt` }
    const from = beginning(text, start, others, generated, tokenizer)
    const limit = others.reduce((least, mark) => mark.start >= end && mark.end > end ? Math.min(least, mark.start) : least, text.length)
    const first = from === end ? places.from(from) : places.reaching(from)
    const last = Math.max(first, places.from(end))
    const stop = endOf(ids, last, limit === text.length ? ids.length : places.from(limit), tokenizer)
    if (stop !== undefined) answers.push([first, stop])
    else if (limit < text.length) return { reason: `the chat template does not end answer ${i + 1} before the next message` }
    else {
      ids = [...ids.slice(0, last), ...(tokenizer.eosId === undefined ? [] : [tokenizer.eosId])]
      answers.push([first, ids.length])
    }
  }
  return { ids, answers, unused, partly: partlyWritten(messages, marks, text) }
}

/** Returns where an answer begins: with what the template writes for the assistant itself, such as an empty thought, if it does so. */
function beginning (
  text: string,
  start: number,
  others: readonly Mark[],
  generated: ReadonlyArray<readonly [number, number]>,
  { generationPrompt }: Tokenizer
): number {
  const block = generated.find(([from, to]) => from <= start && start <= to)
  const before = block?.[0] ?? others.reduce((most, { end }) => end <= start ? Math.max(most, end) : most, 0)
  const asked = generationPrompt.trim() === '' ? -1 : text.slice(before, start).lastIndexOf(generationPrompt)
  return asked < 0 ? block?.[0] ?? start : before + asked + generationPrompt.length
}

/** Returns the position after the token that ends an answer, among the tokens [from, to) that follow its words. */
function endOf (ids: readonly number[], from: number, to: number, tokenizer: Tokenizer): number | undefined {
  for (let at = from; at < to; at++) if (tokenizer.isStop(ids[at]!)) return at + 1
  const first = ids.slice(from, to).findIndex((id) => tokenizer.decode([id], { skipSpecialTokens: false }).trim() !== '')
  return first >= 0 && tokenizer.isSpecial(ids[from + first]!) ? from + first + 1 : undefined
}

function unusedFields (messages: readonly ChatMessage[], marks: readonly Mark[]): string[] {
  const given = new Set(messages.flatMap((message) => (['name', 'reasoning_content'] as const).filter((field) => (message[field] ?? '').trim() !== '')))
  return [...given].filter((field) => !marks.some(({ source }) => source.field === field))
}

/**
 * Returns the messages of whose content the template writes a part only, such as those from which it takes a thought: fewer characters than
 * they have, white space aside.
 */
function partlyWritten (messages: readonly ChatMessage[], marks: readonly Mark[], text: string): number[] {
  const characters = (part: string): number => part.replace(/\s/g, '').length
  return [...messages.keys()].filter((i) => {
    const written = marks.filter(({ source }) => source.message === i && source.field === 'content')
      .reduce((sum, { start, end }) => sum + characters(text.slice(start, end)), 0)
    return written < characters(messages[i]!.content)
  }).map((i) => i + 1)
}
