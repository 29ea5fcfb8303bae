import { createInterface, type Interface } from 'node:readline'
import { Writable } from 'node:stream'

export interface KeyboardStreams {
  readonly input: NodeJS.ReadableStream & { readonly isTTY?: boolean }
  /** Where what is typed is shown. */
  readonly echo: NodeJS.WritableStream & { readonly isTTY?: boolean, readonly columns?: number }
}

const PROMPT = '> '

/**
 * The lines that somebody types, or that come through a pipe. On a terminal, Ctrl-C is a key: while an answer comes it stops the answer,
 * and at the prompt it takes back what was typed; a second one in a row ends the input, as Ctrl-D does.
 */
export class Keyboard {
  readonly isTerminal: boolean
  readonly #readline: Interface
  readonly #lines: string[] = []
  /** Shows what is typed, unless an answer is being written. */
  #shows = true
  #ended = false
  #wake: (() => void) | undefined
  #answer: AbortController | undefined
  #warned = false

  constructor ({ input, echo }: KeyboardStreams, note: (text: string) => void) {
    this.isTerminal = input.isTTY === true && echo.isTTY === true
    const output = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        if (this.#shows) echo.write(chunk)
        done()
      }
    })
    // Long lines are redrawn over several rows of this width.
    Object.defineProperty(output, 'columns', { get: () => echo.columns })
    this.#readline = createInterface(this.isTerminal ? { input, output, terminal: true, prompt: PROMPT } : { input, terminal: false })
    this.#readline.on('line', (line) => {
      this.#warned = false
      this.#lines.push(line)
      this.#wake?.()
    })
    this.#readline.on('close', () => {
      this.#ended = true
      this.#wake?.()
    })
    if (this.isTerminal) this.#readline.on('SIGINT', () => { this.#interrupted(note) })
  }

  /** Resolves with the next line, or with undefined at the end of the input. Rejects when the signal aborts. */
  async line (signal: AbortSignal): Promise<string | undefined> {
    signal.throwIfAborted()
    if (this.isTerminal && this.#lines.length === 0 && !this.#ended) this.#readline.prompt()
    const stop = (): void => { this.#wake?.() }
    signal.addEventListener('abort', stop, { once: true })
    try {
      while (this.#lines.length === 0 && !this.#ended && !signal.aborted) await new Promise<void>((resolve) => { this.#wake = resolve })
    } finally {
      signal.removeEventListener('abort', stop)
    }
    signal.throwIfAborted()
    return this.#lines.shift()
  }

  /** Runs work whose signal Ctrl-C aborts. What is typed meanwhile is not shown, and is the next line. */
  async whileAnswering (work: (interrupted: AbortSignal) => Promise<void>): Promise<void> {
    const answer = this.#answer = new AbortController()
    this.#shows = false
    try {
      await work(answer.signal)
    } finally {
      this.#answer = undefined
      this.#shows = true
    }
  }

  close (): void {
    this.#readline.close()
  }

  #interrupted (note: (text: string) => void): void {
    if (this.#answer !== undefined) {
      this.#answer.abort()
      return
    }
    if (this.#readline.line !== '') {
      this.#readline.write(null, { ctrl: true, name: 'e' })
      this.#readline.write(null, { ctrl: true, name: 'u' })
      return
    }
    if (this.#warned) {
      this.close()
      return
    }
    this.#warned = true
    note('\nCtrl-C again, or Ctrl-D, ends the chat')
    this.#readline.prompt()
  }
}
