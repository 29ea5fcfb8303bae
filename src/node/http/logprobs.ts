import type { TokenLogprob } from '../../api/generate.ts'
import type { ChatLogprobs } from '../../api/openai/chat.ts'
import type { CompletionLogprobs } from '../../api/openai/completions.ts'
import type { ProgressOf } from '../../api/operations.ts'

/** A token with its probability, as the operation tells it. */
export type Token = Extract<ProgressOf<'generate'>, { type: 'token' }>

/** What the text of a part of a character holds. */
const REPLACEMENT = '\ufffd'

/** Returns what a chat completion tells of its tokens. */
export function chatLogprobs (tokens: readonly Token[]): ChatLogprobs {
  return { content: tokens.map((token) => ({ ...entry(token), top_logprobs: token.top.map(entry) })), refusal: null }
}

function entry ({ text, logprob }: TokenLogprob): { token: string, logprob: number, bytes: number[] | null } {
  return { token: text, logprob, bytes: text.includes(REPLACEMENT) ? null : [...Buffer.from(text)] }
}

/**
 * Returns what a completion tells of its tokens, the first of which begins at `offset`. Of likeliest tokens that have the same text, the
 * likeliest is told.
 */
export function completionLogprobs (tokens: readonly Token[], offset = 0): CompletionLogprobs {
  let at = offset
  const offsets = tokens.map(({ text }) => {
    const start = at
    at += text.length
    return start
  })
  return {
    tokens: tokens.map(({ text }) => text),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ top }) => Object.fromEntries(top.toReversed().map(({ text, logprob }) => [text, logprob]))),
    text_offset: offsets
  }
}
