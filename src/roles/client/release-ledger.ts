import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { z } from 'zod'
import { MidspanError } from '../../errors.ts'
import { Ledger, ledgerStateSchema, releaseEntrySchema, type ReleaseEntry } from '../../model/privacy/ledger.ts'
import { bytesOf, type Tensor } from '../../tensor.ts'

/** Where a ledger's bytes are kept. */
export interface LedgerStore {
  /** Returns all bytes; undefined where nothing was ever written. */
  read (): Promise<Uint8Array | undefined>
  /** Writes bytes behind the first `position`, which stay. They outlive the process once this has resolved. */
  append (bytes: Uint8Array, position: number): Promise<void>
  /** Puts other bytes in the place of all. A crash leaves the old ones or the new ones, whole. */
  replace (bytes: Uint8Array): Promise<void>
  close (): Promise<void>
}

/** Thrown when a ledger's file cannot be used. */
export class LedgerError extends MidspanError {
  constructor (problem: string) {
    super('E_STATE', `the ledger of releases ${problem}`, { next: 'restore it from a copy, or remove it to count from now on' })
  }
}

/** Beyond this a ledger's entries are replaced by their sums, which take some ten kilobytes for each thousand remembered releases. */
export const COMPACT_BYTES = 2 ** 20

/** Bytes of the digest that names a release: as good as never are two alike. */
const DIGEST_BYTES = 16

const headerSchema = z.strictObject({ version: z.literal(1), hidden: z.int().min(1), state: ledgerStateSchema })

/** The sums that a ledger's file begins with. */
type Header = z.infer<typeof headerSchema>

/** What is to be counted, but for the digest of the bytes. */
export type ReleaseNote = Omit<ReleaseEntry, 'digest'>

/**
 * A client's ledger, on disk. An entry is written before the bytes leave, so that a process that is killed at any instant has counted what
 * left. The operating system flushes entries about once a second: a power cut can lose the last of them.
 *
 * A line is the CRC-32 of a JSON text, in hexadecimal, and the text. The first has the sums so far, the others an entry each. A last line
 * that is not whole was being written when the process ended: nothing left by it.
 */
export class ReleaseLedger {
  readonly #store: LedgerStore
  readonly #hidden: number
  readonly #compactBytes: number
  readonly #ledger: Ledger
  /** Bytes of the lines that are whole. */
  #size: number
  /** Whether a replacement of the file failed, so that it is not known which bytes are there. */
  #isUncertain = false
  /** The writes before, one after another. */
  #last: Promise<void> = Promise.resolve()

  private constructor (store: LedgerStore, hidden: number, compactBytes: number, ledger: Ledger, size: number) {
    this.#store = store
    this.#hidden = hidden
    this.#compactBytes = compactBytes
    this.#ledger = ledger
    this.#size = size
  }

  /** Reads a ledger, or begins one, for rows of `hidden` coordinates. The caller closes it. Throws LedgerError. */
  static async open (store: LedgerStore, hidden: number, compactBytes = COMPACT_BYTES): Promise<ReleaseLedger> {
    const bytes = await store.read()
    if (bytes === undefined) {
      const made = new ReleaseLedger(store, hidden, compactBytes, new Ledger(hidden), 0)
      await made.#compact()
      return made
    }
    const { header, entries, size, unreadable } = parsed(bytes)
    if (header.hidden !== hidden) throw new LedgerError(`is of a model with hidden size ${header.hidden}, not ${hidden}`)
    const ledger = new Ledger(hidden, header.state)
    for (const entry of entries) ledger.add(entry)
    ledger.addUnreadable(unreadable)
    const opened = new ReleaseLedger(store, hidden, compactBytes, ledger, size)
    // The damage is in the sums from now on, and is not counted again.
    if (unreadable > 0) await opened.#compact()
    return opened
  }

  /** What was counted so far. */
  get counted (): Pick<Ledger, 'groups' | 'purposes' | 'total' | 'unreadable'> { return this.#ledger }

  /**
   * Counts rows that are about to leave, unless the same bytes left before. They may leave once this has resolved. Throws what the disk
   * throws: then they must not.
   */
  async record (note: ReleaseNote, tensors: readonly Tensor[]): Promise<void> {
    const writing = this.#last.then(async () => { await this.#write({ ...note, digest: digestOf(tensors) }) })
    this.#last = writing.catch(() => {})
    await writing
  }

  /** Ends the writes and closes the store. */
  async close (): Promise<void> {
    await this.#last
    await this.#store.close()
  }

  async #write (entry: ReleaseEntry): Promise<void> {
    if (this.#ledger.knows(entry)) return
    if (this.#isUncertain) await this.#compact()
    const line = lineOf(entry)
    await this.#store.append(line, this.#size)
    this.#size += line.byteLength
    this.#ledger.add(entry)
    if (this.#size > this.#compactBytes) await this.#compact()
  }

  async #compact (): Promise<void> {
    const line = lineOf({ version: 1, hidden: this.#hidden, state: this.#ledger.state } satisfies Header)
    this.#isUncertain = true
    await this.#store.replace(line)
    this.#isUncertain = false
    this.#size = line.byteLength
  }
}

/** Names released bytes. */
function digestOf (tensors: readonly Tensor[]): string {
  const hash = createHash('sha256')
  for (const tensor of tensors) hash.update(bytesOf(tensor))
  return hash.digest().subarray(0, DIGEST_BYTES).toString('base64url')
}

function lineOf (value: ReleaseEntry | Header): Uint8Array {
  const text = JSON.stringify(value)
  return Buffer.from(`${checksumOf(text)} ${text}\n`)
}

function checksumOf (text: string): string {
  return crc32(text).toString(16).padStart(8, '0')
}

interface ParsedLedger {
  readonly header: Header
  readonly entries: readonly ReleaseEntry[]
  /** Bytes of the lines that are whole. */
  readonly size: number
  /** Lines with others behind them that are not whole. */
  readonly unreadable: number
}

/** Reads a ledger's lines. Throws LedgerError where it has no sums to begin with. */
function parsed (bytes: Uint8Array): ParsedLedger {
  const lines = splitLines(bytes)
  const [first, ...rest] = lines
  const header = first === undefined ? undefined : headerSchema.safeParse(valueOf(first.text))
  if (first === undefined || header?.success !== true) throw new LedgerError('does not begin with its sums')
  const read = rest.map(({ text, end }) => ({ entry: releaseEntrySchema.safeParse(valueOf(text)).data, end }))
  const wholeLines = read.findLastIndex(({ entry }) => entry !== undefined) + 1
  const whole = read.slice(0, wholeLines)
  return {
    header: header.data,
    entries: whole.flatMap(({ entry }) => entry ?? []),
    size: whole.at(-1)?.end ?? first.end,
    // One line at the end may be of a write that was cut off; what is lost besides is damage.
    unreadable: whole.filter(({ entry }) => entry === undefined).length + Math.max(0, read.length - wholeLines - 1)
  }
}

/** Splits bytes into lines, with where each ends. What is behind the last line break is no line. */
function splitLines (bytes: Uint8Array): Array<{ readonly text: string, readonly end: number }> {
  const lines: Array<{ readonly text: string, readonly end: number }> = []
  for (let start = 0, end = bytes.indexOf(NEW_LINE); end !== -1; start = end + 1, end = bytes.indexOf(NEW_LINE, start))
    lines.push({ text: Buffer.from(bytes.subarray(start, end)).toString('utf8'), end: end + 1 })
  return lines
}

const NEW_LINE = 10

/** Returns what a line says; undefined where it is not whole. */
function valueOf (line: string): unknown {
  const text = line.slice(CHECKSUM_CHARACTERS + 1)
  if (line.slice(0, CHECKSUM_CHARACTERS + 1) !== `${checksumOf(text)} `) return undefined
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

const CHECKSUM_CHARACTERS = 8
