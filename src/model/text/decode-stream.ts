/** What a decoder shows for the bytes of a character that is not whole yet: U+FFFD, once or for each of up to three bytes. */
const unfinished = /\ufffd{1,3}$/

/**
 * Turns token ids into text as they come, giving out only text that later tokens cannot change: a character whose bytes are spread over
 * several tokens appears when it is whole. Put together, the pieces are what `decode` makes of all the ids at once.
 */
export class DecodeStream {
  readonly #decode: (ids: readonly number[]) => string
  readonly #appends: boolean
  /** The latest tokens: enough that those after them decode as they would in the whole text. */
  #window: number[]
  /** How much of the window's text was given out. */
  #given: number

  /**
   * `after` are ids that came before and are not given out, such as a prompt's: the text continues theirs. `appends` says that a further
   * token never changes text before it; without that, the text is certain only at the end, and `flush` gives all of it.
   */
  constructor (decode: (ids: readonly number[]) => string, after: readonly number[] = [], appends = false) {
    this.#decode = decode
    this.#appends = appends
    this.#window = [...after]
    this.#given = decode(after).length
  }

  /** Adds one token; returns the text that is now certain, possibly none. */
  push (id: number): string {
    this.#window.push(id)
    if (!this.#appends) return ''
    const text = this.#decode(this.#window)
    const settled = text.replace(unfinished, '')
    const fresh = settled.slice(this.#given)
    this.#given = Math.max(this.#given, settled.length)
    if (settled.length === text.length) this.#shrink(id)
    return fresh
  }

  /** Returns what is still held back, such as an unfinished character, at the end of the ids. */
  flush (): string {
    const rest = this.#decode(this.#window).slice(this.#given)
    this.#given += rest.length
    return rest
  }

  /**
   * Keeps only the last token, so that a long text is not decoded again for every token. A token without text of its own, or with a part of
   * a character, is no context.
   */
  #shrink (last: number): void {
    const text = this.#decode([last])
    if (text.length === 0 || text.includes('\ufffd')) return
    this.#window = [last]
    this.#given = text.length
  }
}
