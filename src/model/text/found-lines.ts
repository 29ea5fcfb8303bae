/** Where a record stands in the data. */
export interface Place {
  /** The file, where there are several. */
  readonly file?: string
  readonly line: number
}

export interface BadLine extends Place {
  readonly reason: string
}

/** How many lines are kept with their reasons: enough to see what is wrong with a file. */
const MAX_LINES = 20

/** Counts remarks on the lines of data files, and keeps the first of them. */
export class FoundLines {
  readonly #lines: BadLine[] = []
  #count = 0

  /** How many remarks there are. */
  get count (): number { return this.#count }
  /** The first of them. */
  get lines (): readonly BadLine[] { return this.#lines }

  add ({ file, line }: Place, reason: string): void {
    this.#count++
    if (this.#lines.length < MAX_LINES) this.#lines.push({ ...(file === undefined ? {} : { file }), line, reason })
  }
}

/** How many fields are named: a record with more has other things than a record's fields for its names. */
const MAX_FIELDS = 20

/** Counts the fields of records that are not read, each with where it was found first. */
export class UnreadFields {
  readonly #fields = new Map<string, { readonly place: Place, records: number }>()

  add (place: Place, names: readonly string[] = []): void {
    for (const name of names) {
      const known = this.#fields.get(name)
      if (known !== undefined) known.records++
      else if (this.#fields.size < MAX_FIELDS) this.#fields.set(name, { place, records: 1 })
    }
  }

  /** Makes one remark of each field, at its first record. */
  tell (notices: FoundLines): void {
    for (const [name, { place, records }] of this.#fields)
      notices.add(place, records === 1 ? unreadText([name]) : `${unreadText([name])}; nor is that of ${records - 1} further record${records === 2 ? '' : 's'}`)
  }
}

/** Says which fields of a record are not read. */
export function unreadText (names: readonly string[]): string {
  return `has ${names.join(' and ')}, which is not read`
}
