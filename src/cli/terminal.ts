import type { Writable } from 'node:stream'

interface TerminalStream extends Writable {
  readonly isTTY?: boolean
  readonly columns?: number
}

/** The width that is assumed where the terminal does not tell its own. */
const DEFAULT_COLUMNS = 80

const BOLD = ['\u001b[1m', '\u001b[22m'] as const
const DIM = ['\u001b[2m', '\u001b[22m'] as const

/** Control characters other than the tab and the line feed, and those that turn the direction of writing. */
const STEERING = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g

/** Writes for a command: results to standard output, progress and remarks to standard error. */
export class Terminal {
  readonly #out: TerminalStream
  readonly #err: TerminalStream
  readonly #environment: NodeJS.ProcessEnv

  constructor (out: TerminalStream = process.stdout, err: TerminalStream = process.stderr, environment: NodeJS.ProcessEnv = process.env) {
    this.#out = out
    this.#err = err
    this.#environment = environment
  }

  /** Whether progress may be redrawn in place. */
  get interactive (): boolean {
    return this.#err.isTTY === true && this.#environment.TERM !== 'dumb'
  }

  get columns (): number {
    return this.#err.columns ?? DEFAULT_COLUMNS
  }

  /** Writes a part of a result, as it comes. */
  write (text: string): void {
    this.#out.write(text)
  }

  /**
   * Writes a part of a result that others had a hand in, such as a generated text. On a terminal, characters that would steer the
   * terminal are left out; a file or a pipe gets the text as it is.
   */
  writeForeign (text: string): void {
    this.write(this.#out.isTTY === true ? text.replace(STEERING, '') : text)
  }

  /** Writes one line of a result. */
  line (text: string): void {
    this.#out.write(`${text}\n`)
  }

  /** Writes one value of a result as one line of JSON. */
  json (value: unknown): void {
    this.line(JSON.stringify(value))
  }

  /** Writes one line beside the result. */
  note (text: string): void {
    this.#err.write(`${text}\n`)
  }

  /** Writes text beside the result exactly as given, such as the control sequences of a progress line. */
  draw (text: string): void {
    this.#err.write(text)
  }

  bold (text: string): string {
    return this.#styled(text, BOLD)
  }

  dim (text: string): string {
    return this.#styled(text, DIM)
  }

  #styled (text: string, [start, end]: readonly [string, string]): string {
    // https://no-color.org: present and not empty, whatever its value, means no colour.
    const coloured = this.#out.isTTY === true && (this.#environment.NO_COLOR ?? '') === '' && this.#environment.TERM !== 'dumb'
    return coloured ? `${start}${text}${end}` : text
  }
}
