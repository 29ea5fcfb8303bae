import type { Terminal } from '../terminal.ts'

/** Return to the first column and erase to the end of the line (ECMA-48). */
const ERASE_LINE = '\r\u001b[K'

/** One line at the bottom of the terminal that is redrawn in place; nothing at all where the terminal cannot. */
export class ProgressLine {
  readonly #terminal: Terminal
  #drawn = false

  constructor (terminal: Terminal) {
    this.#terminal = terminal
  }

  /** Redraws the line, cut to the terminal's width less one: a full line would wrap and could not be redrawn. */
  draw (text: string): void {
    if (!this.#terminal.interactive) return
    this.#terminal.draw(`${ERASE_LINE}${text.slice(0, this.#terminal.columns - 1)}`)
    this.#drawn = true
  }

  clear (): void {
    if (this.#drawn) this.#terminal.draw(ERASE_LINE)
    this.#drawn = false
  }
}

/** A bar of `width` characters, `share` of it full. */
export function bar (share: number, width: number): string {
  const full = Math.round(Math.min(1, Math.max(0, share)) * width)
  return '█'.repeat(full) + '░'.repeat(width - full)
}
