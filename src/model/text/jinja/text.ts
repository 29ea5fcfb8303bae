/** The field of a message that a part of a text was copied from. */
export interface Source {
  /** The position of the message in the conversation. */
  readonly message: number
  readonly field: string
}

/** The part `[start, end)` of a text, in UTF-16 units, that came from a message. An empty field leaves an empty mark. */
export interface Mark {
  readonly start: number
  readonly end: number
  readonly source: Source
}

/** A string that knows which of its parts came from which message, through every operation of a template. */
export class Text {
  readonly value: string
  /** In the order of the text. */
  readonly marks: readonly Mark[]

  constructor (value: string, marks: readonly Mark[] = []) {
    this.value = value
    this.marks = marks
  }

  /** Marks the whole of a string as copied from a message. */
  static from (value: string, source: Source): Text {
    return new Text(value, [{ start: 0, end: value.length, source }])
  }

  get length (): number {
    return this.value.length
  }

  /** Returns the part between two positions in UTF-16 units. */
  slice (start: number, end = this.length): Text {
    if (this.marks.length === 0) return new Text(this.value.slice(start, end))
    const marks = this.marks.flatMap((mark): Mark[] => {
      const [from, to] = [Math.max(mark.start, start), Math.min(mark.end, end)]
      const kept = from < to || (from === to && (mark.start === mark.end || start === end))
      return kept ? [{ start: from - start, end: to - start, source: mark.source }] : []
    })
    return new Text(this.value.slice(start, end), marks)
  }

  /** Applies a function to each part that has one origin, such as a change of case. */
  map (change: (part: string) => string): Text {
    if (this.marks.length === 0) return new Text(change(this.value))
    const borders = [...new Set([0, ...this.marks.flatMap(({ start, end }) => [start, end]), this.length])].sort((a, b) => a - b)
    return concat(borders.slice(0, -1).map((start, i) => {
      const part = this.slice(start, borders[i + 1])
      const value = change(part.value)
      return new Text(value, part.marks.map(({ source, end }) => ({ start: 0, end: end === 0 ? 0 : value.length, source })))
    }))
  }

  /** Replaces occurrences of `old`, all of them unless `count` bounds them. What replaces a part of a message counts as that message's. */
  replace (old: string, by: Text, count = Infinity): Text {
    const parts: Text[] = []
    let at = 0
    let from = 0
    for (let done = 0; done < count; done++) {
      const found = this.value.indexOf(old, from)
      if (found < 0) break
      const { marks } = this.slice(found, found + old.length)
      const inherited = marks.filter(({ start, end }) => start < end).map(({ source }) => ({ start: 0, end: by.length, source }))
      parts.push(this.slice(at, found), new Text(by.value, [...by.marks, ...inherited]))
      at = found + old.length
      from = old === '' ? found + 1 : at
      if (old === '' && found >= this.length) break
    }
    return parts.length === 0 ? this : concat([...parts, this.slice(at)])
  }
}

/** Joins texts, with all that is known of their parts. */
export function concat (parts: readonly Text[]): Text {
  const marks: Mark[] = []
  const values: string[] = []
  let at = 0
  for (const part of parts) {
    for (const { start, end, source } of part.marks) {
      const last = marks.at(-1)
      if (last !== undefined && last.source === source && last.end === at + start)
        marks[marks.length - 1] = { start: last.start, end: at + end, source }
      else marks.push({ start: at + start, end: at + end, source })
    }
    values.push(part.value)
    at += part.length
  }
  return new Text(values.join(''), marks)
}
