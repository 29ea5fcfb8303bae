import type { Worker } from 'node:worker_threads'
import type { ChatMessage, JsonValue } from '../chat-template.ts'
import { TokenizerError } from '../errors.ts'
import { errorOf, type ThreadFailure } from './failure.ts'
import { startThread } from './thread.ts'

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

/** Decodes ids as they are generated, as DecodeStream does. */
export interface ThreadDecodeStream {
  /** Adds one token; resolves with the text that is now certain, possibly none. */
  push (id: number): Promise<string>
  /** Resolves with what is still held back, and ends the stream. */
  end (): Promise<string>
}

interface Waiting {
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
}

/** A tokenizer in a thread of its own, which the first question starts, and the next one after the thread ended, as for want of memory. */
export class TokenizerThread {
  readonly #dir: string
  readonly #maxHeapMib: number | undefined
  #running: RunningThread | undefined
  #closed = false
  #streams = 0

  /** Takes a Hugging Face directory. The caller closes the thread. Questions throw TokenizerError, naming the file that is at fault. */
  constructor (dir: string, maxHeapMib?: number) {
    this.#dir = dir
    this.#maxHeapMib = maxHeapMib
  }

  async facts (): Promise<TokenizerFacts> {
    return await this.#started().loaded
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
    await this.#ask({ kind: 'open', stream, after })
    return {
      push: async (id) => await this.#ask({ kind: 'push', stream, id }) as string,
      end: async () => await this.#ask({ kind: 'end', stream }) as string
    }
  }

  /** Ends the thread. Called again, it does nothing. */
  async close (): Promise<void> {
    this.#closed = true
    await this.#running?.close()
  }

  async #ask (question: Question): Promise<number[] | string[] | string> {
    const running = this.#started()
    await running.loaded
    const answer = await running.ask(question)
    if ('failure' in answer) throw errorOf(answer.failure)
    return answer.value
  }

  #started (): RunningThread {
    if (this.#closed) throw new TokenizerError('the tokenizer is closed')
    if (this.#running?.ended !== false) this.#running = new RunningThread(this.#dir, this.#maxHeapMib)
    return this.#running
  }
}

class RunningThread {
  readonly loaded: Promise<TokenizerFacts>
  ended = false
  readonly #worker: Worker
  readonly #waiting: Waiting[] = []

  constructor (dir: string, maxHeapMib: number | undefined) {
    const { promise, resolve, reject } = Promise.withResolvers<TokenizerFacts>()
    this.loaded = promise
    promise.catch(() => {}) // thrown at whoever asks
    let isLoaded = false
    const slow = setTimeout(() => {
      reject(new TokenizerError(`${dir}: the tokenizer was not read within ${LOAD_TIMEOUT_MS / 1000} seconds`))
      void this.close()
    }, LOAD_TIMEOUT_MS)
    this.#worker = startThread<TokenizerFacts | Answer>('tokenizer-worker', dir, {
      onAnswer: (answer) => {
        if (isLoaded) return this.#waiting.shift()?.resolve(answer as Answer)
        isLoaded = true
        clearTimeout(slow)
        resolve(answer as TokenizerFacts)
      },
      onEnd: (error) => {
        this.ended = true
        clearTimeout(slow)
        reject(error)
        for (const waiting of this.#waiting.splice(0)) waiting.reject(error)
      }
    }, maxHeapMib)
  }

  async ask (question: Question): Promise<Answer> {
    return await new Promise<Answer>((resolve, reject) => {
      this.#waiting.push({ resolve, reject })
      this.#worker.postMessage(question)
    })
  }

  async close (): Promise<void> {
    this.ended = true
    await this.#worker.terminate()
  }
}
