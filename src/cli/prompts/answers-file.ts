import { open, type FileHandle } from 'node:fs/promises'
import { UsageError } from '../../errors.ts'

/** A line of a file of answers: the prompt's line with what was generated, or with why nothing can be. */
export interface Answer {
  /** The line of the prompt, counted from 1. */
  readonly line: number
  readonly [field: string]: unknown
}

const NEWLINE = 0x0a

/** How every answer begins. */
const BEGINNING = Buffer.from('{"line":')

/** A file of answers is read in pieces of so many bytes. */
const CHUNK_BYTES = 64 * 1024

/** Thrown for a file that holds something else. It stays as it is. */
class OtherFileError extends UsageError {
  constructor (path: string) {
    super(`${path} holds something other than answers`, 'name another file; this one stays as it is')
  }
}

/** A JSONL file of answers, in the order in which they came. A run that was cut off goes on where it was. */
export class AnswersFile {
  readonly #file: FileHandle
  readonly #answered: Set<number>
  #writing: Promise<unknown> = Promise.resolve()

  private constructor (file: FileHandle, answered: Set<number>) {
    this.#file = file
    this.#answered = answered
  }

  /**
   * Opens a file for its owner alone, or the one that an earlier run left: half a line at its end, which that run did not finish, is cut
   * off. The caller closes it. Throws UsageError where the file holds something else.
   */
  static async open (path: string): Promise<AnswersFile> {
    const file = await open(path, 'a+', 0o600)
    try {
      const answered = new Set<number>()
      let wholeBytes = 0
      for await (const { text, whole } of linesOf(file)) {
        if (whole) {
          answered.add(lineOf(path, text))
          wholeBytes += text.byteLength + 1
        } else if (!beginsAnswer(text)) throw new OtherFileError(path)
      }
      await file.truncate(wholeBytes)
      return new AnswersFile(file, answered)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  /** How many answers it holds. */
  get size (): number { return this.#answered.size }

  /** Whether it holds the answer to the prompt of a line. */
  has (line: number): boolean { return this.#answered.has(line) }

  /** Adds an answer. Resolves when the system has it. */
  async add (answer: Answer): Promise<void> {
    const writing = this.#writing.then(async () => { await this.#file.appendFile(`${JSON.stringify(answer)}\n`) })
    this.#writing = writing.catch(() => {}) // thrown at who adds
    await writing
    this.#answered.add(answer.line)
  }

  async close (): Promise<void> {
    await this.#writing
    await this.#file.close()
  }
}

/** Yields the lines of a file without their ends, and tells whether a line has one. */
async function * linesOf (file: FileHandle): AsyncGenerator<{ readonly text: Buffer, readonly whole: boolean }> {
  let rest = Buffer.alloc(0)
  let at = 0
  for (;;) {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(CHUNK_BYTES), 0, CHUNK_BYTES, at)
    if (bytesRead === 0) break
    at += bytesRead
    rest = Buffer.concat([rest, buffer.subarray(0, bytesRead)])
    for (let end = rest.indexOf(NEWLINE); end >= 0; end = rest.indexOf(NEWLINE)) {
      yield { text: rest.subarray(0, end), whole: true }
      rest = rest.subarray(end + 1)
    }
  }
  if (rest.byteLength > 0) yield { text: rest, whole: false }
}

/** Returns whether half a line is the beginning of an answer. */
function beginsAnswer (text: Buffer): boolean {
  return text.subarray(0, BEGINNING.byteLength).equals(BEGINNING.subarray(0, text.byteLength))
}

function lineOf (path: string, text: Buffer): number {
  try {
    const { line } = JSON.parse(text.toString()) as { line?: unknown }
    if (Number.isSafeInteger(line)) return line as number
  } catch {
    // Told below.
  }
  throw new OtherFileError(path)
}
