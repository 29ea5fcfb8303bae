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
