import type { Terminal } from '../terminal.ts'

/** Return to the first column and erase to the end of the line (ECMA-48). */
const ERASE_LINE = '\r\u001b[K'

/** Elsewhere than on a terminal, progress is a line every so many milliseconds. */
const LINE_EVERY_MS = 5_000

/** The same words about waiting are written again after so many milliseconds. */
const REPEAT_WAITING_MS = 60_000

/** Shows progress: on a terminal one line at its bottom that is redrawn in place, elsewhere a plain line every few seconds. */
export class ProgressLine {
  readonly #terminal: Terminal
  readonly #now: () => number
  #drawn = false
  /** When the last plain line was written, in milliseconds. It begins at the start, so that short work writes none. */
  #lineAtMs: number
  #waiting: { readonly reason: string, readonly atMs: number } | undefined

  constructor (terminal: Terminal, now: () => number = () => performance.now()) {
    this.#terminal = terminal
    this.#now = now
    this.#lineAtMs = now()
  }

  /** Shows how far the work is. */
  draw (text: string): void {
    if (this.#terminal.interactive) return this.#redraw(text)
    if (this.#now() - this.#lineAtMs < LINE_EVERY_MS) return
    this.#lineAtMs = this.#now()
    this.#terminal.note(text)
  }

  /** Shows what the work waits for. */
  wait (reason: string): void {
    const text = `Waiting: ${reason}`
    if (this.#terminal.interactive) return this.#redraw(text)
    if (this.#waiting?.reason === reason && this.#now() - this.#waiting.atMs < REPEAT_WAITING_MS) return
    this.#waiting = { reason, atMs: this.#now() }
    this.#terminal.note(text)
  }

  /** Erases the line. */
  clear (): void {
    if (this.#drawn) this.#terminal.draw(ERASE_LINE)
    this.#drawn = false
  }

  /** Redraws the line, cut to the terminal's width less one: a full line would wrap and could not be redrawn. */
  #redraw (text: string): void {
    this.#terminal.draw(`${ERASE_LINE}${text.slice(0, this.#terminal.columns - 1)}`)
    this.#drawn = true
  }
}

/** Returns a bar of `width` characters, of which `share` is full. */
export function bar (share: number, width: number): string {
  const full = Math.round(Math.min(1, Math.max(0, share)) * width)
  return '█'.repeat(full) + '░'.repeat(width - full)
}
