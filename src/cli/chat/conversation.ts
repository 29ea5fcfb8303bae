import type { ResultOf } from '../../api/operations.ts'
import type { Messages } from '../messages-file.ts'

type Done = ResultOf<'generate'>

/** What the answers of a conversation took, all together. */
export interface ConversationTotals {
  readonly answers: number
  readonly tokens: number
  readonly decodeSeconds: number
  readonly sentBytes: number
  readonly receivedBytes: number
}

/** The messages of a chat, and what its answers took. */
export class Conversation {
  #messages: Messages
  #totals: ConversationTotals = { answers: 0, tokens: 0, decodeSeconds: 0, sentBytes: 0, receivedBytes: 0 }
  #last: Done | undefined

  constructor (messages: Messages = []) {
    this.#messages = messages
  }

  get messages (): Messages { return this.#messages }
  get totals (): ConversationTotals { return this.#totals }

  /** What the last answer that came to its end took. */
  get last (): Done | undefined { return this.#last }

  /** Puts a system message first, in place of the one that is there. An empty text takes it away. */
  setSystem (content: string): void {
    const rest = this.#messages.filter(({ role }) => role !== 'system')
    this.#messages = content === '' ? rest : [{ role: 'system', content }, ...rest]
  }

  /** Forgets all messages but the system's. */
  reset (): void {
    this.#messages = this.#messages.filter(({ role }) => role === 'system')
  }

  /** Returns the messages with a question after them, as they are sent. */
  asking (content: string): Messages {
    return [...this.#messages, { role: 'user', content }]
  }

  /** Adds a question with its answer, or with the part of it that came. A question to which nothing came is as if it was not asked. */
  answered (question: string, answer: string): void {
    if (answer !== '') this.#messages = [...this.asking(question), { role: 'assistant', content: answer }]
  }

  /** Counts what an answer took. */
  count (done: Done): void {
    const { answers, tokens, decodeSeconds, sentBytes, receivedBytes } = this.#totals
    this.#last = done
    this.#totals = {
      answers: answers + 1,
      tokens: tokens + done.tokens,
      decodeSeconds: decodeSeconds + done.decodeSeconds,
      sentBytes: sentBytes + done.sentBytes,
      receivedBytes: receivedBytes + done.receivedBytes
    }
  }
}
