import type { ChatMessage, JsonValue } from '../chat-template.ts'
import { TokenizerError } from '../errors.ts'
import { errorOf, type ThreadFailure } from './failure.ts'
import { QuestionThread, ThreadEndedError } from './question-thread.ts'

/** What a tokenizer says of itself. */
export interface TokenizerFacts {
  /** The id that begins a sequence, if the model has one. */
  readonly bosId: number | undefined
  /** The ids at which generation stops. */
  readonly eosIds: readonly number[]
}

/** What the thread is asked. */
export type Question =
  | { readonly kind: 'encode', readonly text: string }
  /** The conversation, with what the template writes to have the assistant speak. */
  | { readonly kind: 'encodeChat', readonly messages: readonly ChatMessage[], readonly tools: readonly JsonValue[] | undefined }
  | { readonly kind: 'tokenTexts', readonly ids: readonly number[], readonly before: number }
  | { readonly kind: 'wordTexts', readonly ids: readonly number[] }
  | { readonly kind: 'open', readonly stream: number, readonly after: readonly number[] }
  | { readonly kind: 'push', readonly stream: number, readonly id: number }
  | { readonly kind: 'end', readonly stream: number }

export type Answer = { readonly value: number[] | string[] | string } | { readonly failure: ThreadFailure }

/** Published tokenizers are read within two seconds. */
const LOAD_TIMEOUT_MS = 60_000

type Thread = QuestionThread<TokenizerFacts, Question, Answer>

/** Decodes ids as they are generated, as DecodeStream does. */
export interface ThreadDecodeStream {
  /** Adds one token; resolves with the text that is now certain, possibly none. */
  push (id: number): Promise<string>
  /** Resolves with what is still held back, and ends the stream. */
  end (): Promise<string>
}

/** A question is asked again this often where other questions bring their threads down. */
const MAX_TRIES = 4

/** A tokenizer in a thread of its own, which the first question starts, and the next one after the thread ended, as for want of memory. */
export class TokenizerThread {
  readonly #dir: string
  readonly #maxHeapMib: number | undefined
  #running: Thread | undefined
  #closed = false
  #streams = 0

  /** Takes a Hugging Face directory. The caller closes the thread. Questions throw TokenizerError, naming the file that is at fault. */
  constructor (dir: string, maxHeapMib?: number) {
    this.#dir = dir
    this.#maxHeapMib = maxHeapMib
  }

  async facts (): Promise<TokenizerFacts> {
    return await this.#tried(async (thread) => await thread.loaded)
  }

  /** Token ids, with those that the model puts around a text. Throws TokenizerError. */
  async encode (text: string): Promise<number[]> {
    return await this.#ask({ kind: 'encode', text }) as number[]
  }

  /**
   * The token ids of a conversation, up to where the assistant speaks, which may ask for these tools. Throws TokenizerError where the chat
   * template refuses it.
   */
  async encodeChat (messages: readonly ChatMessage[], tools?: readonly JsonValue[]): Promise<number[]> {
    return await this.#ask({ kind: 'encodeChat', messages, tools }) as number[]
  }

  /** The text that each of these ids has where it follows the token `before`, special tokens included. */
  async tokenTexts (ids: readonly number[], before: number): Promise<string[]> {
    return await this.#ask({ kind: 'tokenTexts', ids, before }) as string[]
  }

  /** The text of each token within its text, to find words in; of special tokens a line break, which words do not have. */
  async wordTexts (ids: readonly number[]): Promise<string[]> {
    return await this.#ask({ kind: 'wordTexts', ids }) as string[]
  }

  /** Decodes ids as they are generated. `after` are the prompt's ids, which the text continues. The caller ends the stream. */
  async openDecodeStream (after: readonly number[]): Promise<ThreadDecodeStream> {
    const stream = this.#streams++
    const opened = await this.#tried(async (thread) => {
      await ask(thread, { kind: 'open', stream, after })
      return thread
    })
    // The stream ends with its thread: another one does not know what came before.
    const more = async (question: Question): Promise<string> => {
      try {
        return await ask(opened, question) as string
      } catch (error) {
        throw error instanceof ThreadEndedError ? errorOfEnded(error) : error
      }
    }
    return {
      push: async (id) => await more({ kind: 'push', stream, id }),
      end: async () => await more({ kind: 'end', stream })
    }
  }

  /** Ends the thread. Called again, it does nothing. */
  async close (): Promise<void> {
    this.#closed = true
    await this.#running?.end()
  }

  async #ask (question: Question): Promise<number[] | string[] | string> {
    return await this.#tried(async (thread) => await ask(thread, question))
  }

  /** Tries again in another thread where one ended for another reason. */
  async #tried<T> (work: (thread: Thread) => Promise<T>): Promise<T> {
    for (let tries = 1; ; tries++) {
      try {
        return await work(this.#started())
      } catch (error) {
        if (!(error instanceof ThreadEndedError)) throw error
        if (tries === MAX_TRIES) throw errorOfEnded(error)
      }
    }
  }

  #started (): Thread {
    if (this.#closed) throw new TokenizerError('the tokenizer is closed')
    if (this.#running?.isEnded !== false)
      this.#running = new QuestionThread('tokenizer-worker', this.#dir, {
        loadMs: LOAD_TIMEOUT_MS,
        tooLong: () => new TokenizerError(`${this.#dir}: the tokenizer was not read within ${LOAD_TIMEOUT_MS / 1000} seconds`),
        maxHeapMib: this.#maxHeapMib
      })
    return this.#running
  }
}

/** Throws TokenizerError, and ThreadEndedError where the thread ended for another reason than this question. */
async function ask (thread: Thread, question: Question): Promise<number[] | string[] | string> {
  const answer = await thread.ask(question)
  if ('failure' in answer) throw errorOf(answer.failure)
  return answer.value
}

function errorOfEnded ({ cause }: ThreadEndedError): Error {
  return cause instanceof Error ? cause : new TokenizerError('the thread of the tokenizer ended')
}
