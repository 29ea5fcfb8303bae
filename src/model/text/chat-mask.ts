import type { ChatMessage } from './chat-template.ts'
import type { Mark } from './jinja/text.ts'
import { placeTokens } from './token-places.ts'
import type { Tokenizer } from './tokenizer.ts'

/** A conversation as tokens, with the ranges [first, end) of those that the assistant is to learn. */
export interface MaskedChat {
  readonly ids: number[]
  readonly answers: ReadonlyArray<readonly [number, number]>
  /** Fields of messages that the template does not write. */
  readonly unused: readonly string[]
}

/** The fields that are the assistant's own words. */
const answerFields: ReadonlySet<string> = new Set(['content', 'reasoning_content'])

/**
 * Encodes a conversation in one render and finds the answers in it by where the template put each message. An answer begins where the
 * template has the assistant speak, and goes on through the token that ends it.
 * One is added to the last answer where the template has none.
 * Returns a reason where the template mixes an answer with other messages, leaves a message out, or does not end an answer.
 */
export function maskChat (
  messages: readonly ChatMessage[],
  learns: (message: number) => boolean,
  tokenizer: Tokenizer
): MaskedChat | { readonly reason: string } {
  const { text, marks, generated } = tokenizer.renderChat(messages)
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
  return { ids, answers, unused }
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
  if (block !== undefined) return block[0]
  if (generationPrompt.trim() === '') return start
  const before = others.reduce((most, { end }) => end <= start ? Math.max(most, end) : most, 0)
  const asked = text.slice(before, start).lastIndexOf(generationPrompt)
  return asked < 0 ? start : before + asked + generationPrompt.length
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
