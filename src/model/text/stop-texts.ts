/** What a piece of text came to. */
export interface Passed {
  /** The text that no stop text can take back any more. */
  readonly text: string
  /** The stop text that ended the text before it, if one did. */
  readonly stop?: string
}

/**
 * Looks for texts that end a text which comes in pieces. The text ends before the first stop text that is whole; of those that are whole at
 * the same character, before the longest. How the text is cut into pieces makes no difference.
 */
export class StopTexts {
  readonly #stops: readonly string[]
  /** The end of the text so far that may be the beginning of a stop text. */
  #held = ''

  /** Takes texts that are not empty. */
  constructor (stops: readonly string[]) {
    this.#stops = [...stops].sort((a, b) => b.length - a.length)
  }

  /** Adds a piece. After a stop text, nothing more may be added. */
  push (piece: string): Passed {
    const text = this.#held + piece
    for (let end = this.#held.length + 1; end <= text.length; end++) {
      const stop = this.#stops.find((each) => text.endsWith(each, end))
      if (stop === undefined) continue
      this.#held = ''
      return { text: text.slice(0, end - stop.length), stop }
    }
    const kept = this.#beginningLength(text)
    this.#held = text.slice(text.length - kept)
    return { text: text.slice(0, text.length - kept) }
  }

  /** Returns what was held back, at the end of the text. */
  end (): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }

  /** Returns the length of the longest end of a text that is the beginning of a stop text. */
  #beginningLength (text: string): number {
    const longest = (this.#stops[0]?.length ?? 1) - 1
    for (let length = Math.min(longest, text.length); length > 0; length--) {
      const end = text.slice(text.length - length)
      if (this.#stops.some((stop) => stop.startsWith(end))) return length
    }
    return 0
  }
}
