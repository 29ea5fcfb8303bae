import { writeSync } from 'node:fs'
import { open, readFile, stat, type FileHandle } from 'node:fs/promises'
import { replaceFile, writeFully } from '../../model/checkpoint/atomic.ts'
import { LedgerError, type LedgerStore } from './release-ledger.ts'

/** Far above what a ledger grows to before its entries are summed: a file that is larger is no ledger. */
export const MAX_LEDGER_BYTES = 16 * 2 ** 20

/** How long an entry may wait for the disk. A text has an entry a token, and a flush takes milliseconds. */
const FLUSH_AFTER_MS = 1_000

/** A ledger's bytes in a file, for its owner alone. */
export class LedgerFile implements LedgerStore {
  readonly #path: string
  #handle: FileHandle | undefined
  #flush: NodeJS.Timeout | undefined
  /** Whether there may be bytes behind those that count, of a write that failed or was cut off. */
  #hasRest = true

  constructor (path: string) {
    this.#path = path
  }

  async read (): Promise<Uint8Array | undefined> {
    try {
      const found = await stat(this.#path)
      if (!found.isFile()) throw new LedgerError('is not a file')
      const { size } = found
      if (size > MAX_LEDGER_BYTES) throw new LedgerError(`has ${size} bytes, more than any`)
      return await readFile(this.#path)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw error
    }
  }

  /**
   * Writes an entry, about 200 bytes, into the operating system's cache. It does so on the calling thread: each generated token waits for
   * its entry, and where the cores compute, a thread that is woken for a write comes later than the write takes.
   */
  async append (bytes: Uint8Array, position: number): Promise<void> {
    this.#handle ??= await open(this.#path, 'r+')
    if (this.#hasRest) await this.#handle.truncate(position)
    this.#hasRest = true
    let done = 0
    while (done < bytes.byteLength) done += writeSync(this.#handle.fd, bytes, done, bytes.byteLength - done, position + done)
    this.#hasRest = false
    this.#flush ??= setTimeout(() => {
      this.#flush = undefined
      this.#handle?.datasync().catch(() => {}) // the next write says what is wrong with the disk
    }, FLUSH_AFTER_MS).unref()
  }

  async replace (bytes: Uint8Array): Promise<void> {
    await this.close()
    await replaceFile(this.#path, async (handle) => { await writeFully(handle, bytes) }, { mode: 0o600 })
  }

  async close (): Promise<void> {
    clearTimeout(this.#flush)
    this.#flush = undefined
    const handle = this.#handle
    this.#handle = undefined
    await handle?.datasync().catch(() => {})
    await handle?.close()
  }
}
