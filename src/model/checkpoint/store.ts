import { createReadStream } from 'node:fs'
import { open, readFile, rename, rm, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { shown } from '../../errors.ts'
import { makeDirectories, replaceFile, writeFully } from './atomic.ts'
import { companionFiles, MAX_COMPANION_BYTES } from './directory.ts'
import { ModelStoreError } from './errors.ts'
import { digest, type FilePrint, type TensorPrint } from './fingerprint.ts'
import { byteLengthOf } from './header.ts'
import { SafetensorsFile, writeSafetensorsFrom, type ByteSource } from './safetensors.ts'

/** What a client's partial model is to consist of, with the sizes and hashes that its charter states. */
export interface ExpectedModel {
  readonly tensors: Readonly<Record<string, TensorPrint>>
  readonly files: Readonly<Record<string, FilePrint>>
}

/** Bytes still to be fetched. Equal tensors are one piece. */
export interface PendingPiece extends FilePrint {
  /** A tensor or file with these bytes. */
  readonly name: string
  readonly kind: 'tensor' | 'file'
  /** How many bytes are here already: where to go on. */
  readonly offset: number
}

interface Piece extends FilePrint {
  readonly name: string
  readonly kind: 'tensor' | 'file'
  offset: number
  done: boolean
  busy: boolean
}

/** The file with the tensors of a partial model. */
export const WEIGHTS_FILE = 'model.safetensors'

/** Bytes for the header and for rounding up to file system blocks, left free on top of what is computed. */
const SPARE_BYTES = 16 * 1024 * 1024

/**
 * Collects a client's part of a model in a directory: pieces named by their hash arrive in chunks into `parts/<sha256>.part`, are verified
 * when complete, and `finish` puts them together. Killed at any instant, it goes on where it was. Tensors of an earlier `model.safetensors`
 * in the directory are used again where their hashes agree. One store a directory at a time.
 */
export class PartialModelStore {
  readonly path: string
  readonly #expected: ExpectedModel
  readonly #pieces = new Map<string, Piece>()
  /** Where verified bytes lie that need not be fetched, by hash. */
  readonly #reused = new Map<string, { file: SafetensorsFile, name: string }>()
  #upToDate = false

  private constructor (path: string, expected: ExpectedModel) {
    this.path = path
    this.#expected = expected
  }

  /**
   * Checks the expected sizes against each other, `maxBytes` and the free space, then looks at what is there already.
   * Throws ModelStoreError before any disk is taken.
   */
  static async open (path: string, expected: ExpectedModel, maxBytes: number, signal?: AbortSignal): Promise<PartialModelStore> {
    const totalBytes = checkExpected(expected, maxBytes)
    const store = new PartialModelStore(path, expected)
    await makeDirectories(store.#parts)
    for (const [name, print] of Object.entries(expected.tensors)) store.#add(name, 'tensor', print)
    for (const [name, print] of Object.entries(expected.files)) store.#add(name, 'file', print)
    await store.#reuse(signal)
    for (const piece of store.#pieces.values()) if (!piece.done) await store.#resume(piece)
    await store.#checkSpace(totalBytes)
    return store
  }

  /** True when every piece is here and verified, so that `finish` can run. */
  get complete (): boolean {
    return this.pending().length === 0
  }

  /** Returns what is still missing, in the order of the expected model. */
  pending (): PendingPiece[] {
    return [...this.#pieces.values()].filter((piece) => !piece.done)
      .map(({ name, kind, bytes, sha256, offset }) => ({ name, kind, bytes, sha256, offset }))
  }

  /**
   * Appends the next bytes of a piece; verifies and keeps it when they are the last. Returns how many bytes are here now.
   * Throws ModelStoreError for bytes that do not belong there; when the hash is wrong the piece starts again from nothing.
   */
  async append (sha256: string, offset: number, bytes: Uint8Array): Promise<number> {
    const piece = this.#pieces.get(sha256)
    if (piece === undefined || piece.done) throw new ModelStoreError(`no piece with hash ${sha256} is missing here`)
    if (piece.busy) throw new ModelStoreError(`piece ${piece.name} is being written already`)
    if (offset !== piece.offset) throw new ModelStoreError(`piece ${piece.name} continues at byte ${piece.offset}, not ${offset}`)
    if (offset + bytes.byteLength > piece.bytes)
      throw new ModelStoreError(`piece ${piece.name} has ${piece.bytes} bytes; ${offset + bytes.byteLength} were sent`)
    piece.busy = true
    try {
      await this.#write(piece, bytes)
      if (piece.offset === piece.bytes) await this.#verify(piece)
    } finally {
      piece.busy = false
    }
    return piece.offset
  }

  /**
   * Writes the companion files and then `model.safetensors` with exactly the expected tensors, and removes the parts.
   * Throws ModelStoreError while pieces are missing.
   */
  async finish (): Promise<void> {
    const missing = this.pending()
    if (missing.length > 0)
      throw new ModelStoreError(`${this.path} still lacks ${missing.length} pieces, the first being ${missing[0]!.name}`)
    for (const [name, { sha256 }] of Object.entries(this.#expected.files)) {
      await replaceFile(join(this.path, name), async (handle) => {
        for await (const chunk of createReadStream(this.#donePath(sha256))) await writeFully(handle, chunk as Buffer)
      })
    }
    if (!this.#upToDate)
      await writeSafetensorsFrom(join(this.path, WEIGHTS_FILE), new Map(Object.entries(this.#expected.tensors)), (name) =>
        this.#source(name))
    await rm(this.#parts, { recursive: true, force: true })
  }

  get #parts (): string {
    return join(this.path, 'parts')
  }

  #partPath (sha256: string): string {
    return join(this.#parts, `${sha256}.part`)
  }

  #donePath (sha256: string): string {
    return join(this.#parts, `${sha256}.done`)
  }

  #add (name: string, kind: Piece['kind'], { bytes, sha256 }: FilePrint): void {
    const known = this.#pieces.get(sha256)
    if (known !== undefined && known.bytes !== bytes)
      throw new ModelStoreError(`${name} and ${known.name} have one hash but different sizes`)
    if (known === undefined) this.#pieces.set(sha256, { name, kind, bytes, sha256, offset: 0, done: false, busy: false })
  }

  #source (name: string): ByteSource {
    const { sha256 } = this.#expected.tensors[name]!
    const reused = this.#reused.get(sha256)
    return reused === undefined ? createReadStream(this.#donePath(sha256), { highWaterMark: 1024 * 1024 }) : reused.file.chunks(reused.name)
  }

  /** Finds which expected tensors an earlier weights file holds already. */
  async #reuse (signal: AbortSignal | undefined): Promise<void> {
    const file = await SafetensorsFile.open(join(this.path, WEIGHTS_FILE)).catch(() => undefined)
    if (file === undefined) return
    let matching = 0
    for (const [name, { dtype, shape, sha256 }] of Object.entries(this.#expected.tensors)) {
      const found = file.tensors.get(name)
      if (found === undefined || found.dtype !== dtype || JSON.stringify(found.shape) !== JSON.stringify(shape)) continue
      if ((await digest(file.chunks(name, signal))).sha256 !== sha256) continue
      matching++
      this.#reused.set(sha256, { file, name })
      const piece = this.#pieces.get(sha256)!
      if (piece.kind === 'tensor') piece.done = true
    }
    this.#upToDate = matching === file.tensors.size && matching === Object.keys(this.#expected.tensors).length
  }

  /** Takes up a piece where an earlier process left it. */
  async #resume (piece: Piece): Promise<void> {
    const done = await sizeOf(this.#donePath(piece.sha256))
    if (done === piece.bytes) {
      piece.offset = done
      piece.done = true
      return
    }
    if (piece.kind === 'file' && await this.#takeExistingFile(piece)) return
    const size = await sizeOf(this.#partPath(piece.sha256)) ?? 0
    if (size <= piece.bytes) piece.offset = size
    else await rm(this.#partPath(piece.sha256))
    if (piece.offset < piece.bytes) return
    if (piece.bytes === 0) await this.#write(piece, new Uint8Array())
    await this.#verify(piece).catch((error: unknown) => {
      if (!(error instanceof ModelStoreError)) throw error
    })
  }

  async #takeExistingFile (piece: Piece): Promise<boolean> {
    const path = join(this.path, piece.name)
    if (await sizeOf(path) !== piece.bytes) return false
    const content = await readFile(path)
    if ((await digest(single(content))).sha256 !== piece.sha256) return false
    await this.#write(piece, content)
    await this.#verify(piece)
    return true
  }

  async #write (piece: Piece, bytes: Uint8Array): Promise<void> {
    const handle = await open(this.#partPath(piece.sha256), piece.offset === 0 ? 'w' : 'a')
    try {
      await writeFully(handle, bytes)
      piece.offset += bytes.byteLength
      if (piece.offset === piece.bytes) await handle.sync()
    } catch (error) {
      piece.offset = (await handle.stat()).size
      throw error
    } finally {
      await handle.close()
    }
  }

  async #verify (piece: Piece): Promise<void> {
    const part = this.#partPath(piece.sha256)
    const found = await digest(createReadStream(part, { highWaterMark: 1024 * 1024 }))
    if (found.sha256 !== piece.sha256) {
      await rm(part)
      piece.offset = 0
      throw new ModelStoreError(
        `the bytes received for ${piece.name} have the hash ${found.sha256}, not the charter's ${piece.sha256}`,
        'fetch them from another peer'
      )
    }
    await rename(part, this.#donePath(piece.sha256))
    piece.done = true
  }

  /** Checks the free space of the disk: the pieces still to come and the assembled file lie there together for a moment. */
  async #checkSpace (totalBytes: number): Promise<void> {
    const toFetch = this.pending().reduce((sum, { bytes, offset }) => sum + bytes - offset, 0)
    const needed = toFetch + (this.#upToDate ? 0 : totalBytes) + SPARE_BYTES
    const { bavail, bsize } = await statfs(this.path)
    if (bavail * bsize < needed)
      throw new ModelStoreError(
        `${this.path} needs ${needed} bytes of free space, but has ${bavail * bsize}`,
        'free some space or choose another directory'
      )
  }
}

function checkExpected ({ tensors, files }: ExpectedModel, maxBytes: number): number {
  let total = 0
  for (const [name, print] of [...Object.entries(tensors), ...Object.entries(files)]) {
    if (!/^[0-9a-f]{64}$/.test(print.sha256)) throw new ModelStoreError(`the charter's hash of ${name} is not a hex SHA-256`)
    if (!Number.isSafeInteger(print.bytes) || print.bytes < 0) throw new ModelStoreError(`the charter's size of ${name} is impossible`)
    total += print.bytes
  }
  for (const [name, print] of Object.entries(tensors)) {
    if (byteLengthOf(print) !== print.bytes)
      throw new ModelStoreError(
        `the charter gives ${name} ${print.bytes} bytes, but ${print.dtype} [${print.shape.join(', ')}] takes ${byteLengthOf(print)}`
      )
  }
  for (const [name, { bytes }] of Object.entries(files)) {
    if (!(companionFiles as readonly string[]).includes(name))
      throw new ModelStoreError(`the charter names the file ${shown(name)}, which is no part of a model`)
    if (bytes > MAX_COMPANION_BYTES)
      throw new ModelStoreError(`the charter gives ${name} ${bytes} bytes; at most ${MAX_COMPANION_BYTES} are taken`)
  }
  if (total > maxBytes)
    throw new ModelStoreError(
      `this part of the model takes ${total} bytes; at most ${maxBytes} are allowed`,
      'choose a smaller part or raise the limit'
    )
  return total
}

async function sizeOf (path: string): Promise<number | undefined> {
  return await stat(path).then(({ size }) => size, () => undefined)
}

async function* single (bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
