import { z } from 'zod'
import { isShallow } from '../../api/json.ts'

/** A call that a model wrote. */
export interface WrittenCall {
  readonly name: string
  /** A text of JSON. */
  readonly arguments: string
}

/** What a piece of a text came to. */
export interface ReadPiece {
  readonly text: string
  readonly calls: readonly WrittenCall[]
}

const OPENING = '<tool_call>'
const CLOSING = '</tool_call>'

const callSchema = z.object({ name: z.string().min(1), arguments: z.union([z.record(z.string(), z.unknown()), z.string()]).optional() })

/**
 * Reads calls of tools out of a text that comes in pieces: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as Qwen2.5, Qwen3 and
 * models with Hermes' template write them. White space around calls is left out. What stands between tags and is no call is text, and a
 * text without calls stays as it is.
 */
export class ToolCalls {
  /** What was not given out yet. */
  #pending = ''
  #isAfterCall = false

  push (piece: string): ReadPiece {
    this.#pending += piece
    const calls: WrittenCall[] = []
    let text = ''
    for (;;) {
      this.#skipSpaceAfterCall()
      const open = this.#pending.indexOf(OPENING)
      const close = open < 0 ? -1 : this.#pending.indexOf(CLOSING, open)
      if (close < 0) return { text: text + this.#take(this.#certainLength(open)), calls }
      const call = readCall(this.#pending.slice(open + OPENING.length, close))
      if (call === undefined) {
        text += this.#take(close + CLOSING.length)
        continue
      }
      text += this.#take(open).trimEnd()
      this.#take(close + CLOSING.length - open)
      calls.push(call)
      this.#isAfterCall = true
    }
  }

  /** Returns what was held back, at the end of the text. A last call may be without its closing tag: models end a text in its place. */
  end (): ReadPiece {
    this.#skipSpaceAfterCall()
    const open = this.#pending.indexOf(OPENING)
    const call = open < 0 ? undefined : readCall(this.#pending.slice(open + OPENING.length))
    const rest = this.#take(this.#pending.length)
    return call === undefined ? { text: rest, calls: [] } : { text: rest.slice(0, open).trimEnd(), calls: [call] }
  }

  #take (length: number): string {
    const taken = this.#pending.slice(0, length)
    this.#pending = this.#pending.slice(length)
    return taken
  }

  #skipSpaceAfterCall (): void {
    if (!this.#isAfterCall) return
    this.#pending = this.#pending.trimStart()
    if (this.#pending !== '') this.#isAfterCall = false
  }

  /** Returns how much is text for certain: not the tag that is open, or what may be its beginning, nor the white space before it. */
  #certainLength (open: number): number {
    const tags = Array.from({ length: OPENING.length }, (_, i) => OPENING.slice(0, OPENING.length - i - 1))
    const end = open < 0 ? this.#pending.length - tags.find((tag) => this.#pending.endsWith(tag))!.length : open
    return this.#pending.slice(0, end).trimEnd().length
  }
}

/** Returns the call in a text between tags, or undefined where there is none. */
function readCall (text: string): WrittenCall | undefined {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  if (!isShallow(value)) return undefined
  const parsed = callSchema.safeParse(value)
  if (!parsed.success) return undefined
  const { name, arguments: given = {} } = parsed.data
  return { name, arguments: typeof given === 'string' ? given : JSON.stringify(given) }
}
