import { create } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import { Backoff } from '../../backoff.ts'
import { isRetryable } from '../../errors.ts'
import { ControlStream } from '../wire/control.ts'
import { BadMessageError, ChannelClosedError } from '../wire/errors.ts'
import { asClient, kinds, type PieceKind } from './messages.ts'
import { type Part, type Request, RequestSchema } from './weights_pb.ts'

/** A file or tensor that is not here, or not all of it. */
export interface MissingPiece {
  readonly kind: PieceKind
  readonly name: string
  readonly sha256: string
  /** Its size, as the charter says. */
  readonly bytes: number
  /** Bytes that are here. */
  readonly offset: number
}

/** Where fetched bytes go; it verifies each piece against its hash when the last byte is there. */
export interface PieceStore {
  pending (): MissingPiece[]
  append (sha256: string, offset: number, bytes: Uint8Array): Promise<number>
}

export interface FetchOptions {
  /** Opens a stream of the weights protocol, dialling again where that is needed. */
  readonly open: (signal: AbortSignal) => Promise<Stream>
  /** Called with the number of bytes that came. */
  readonly onProgress?: (bytes: number) => void
  /** The wait before the second try without progress, which is shortened at random; it doubles. */
  readonly retryMs?: number
  /** Tries in a row that bring nothing, at most. */
  readonly maxTries?: number
}

/** Tries in a row that bring nothing. With doubling waits from two seconds on, shortened at random, they span half a minute or more. */
const MAX_TRIES_WITHOUT_PROGRESS = 6
const RETRY_MS = 2_000
const GREATEST_RETRY_MS = 32_000

/**
 * Fetches all pieces that the store lacks, going on after a cut where it stopped. Throws what the server refuses with (E_NOT_SERVED), what
 * the store throws for bytes that do not match their hash, and the last error when nothing comes any more.
 */
export async function fetchPieces (
  store: PieceStore,
  { open, onProgress = () => {}, retryMs = RETRY_MS, maxTries = MAX_TRIES_WITHOUT_PROGRESS }: FetchOptions,
  signal: AbortSignal
): Promise<void> {
  const backoff = new Backoff({ firstMs: retryMs, greatestMs: GREATEST_RETRY_MS })
  while (store.pending().length > 0) {
    try {
      await fetchOverOneStream(store, await open(signal), (bytes) => {
        backoff.reset()
        onProgress(bytes)
      }, signal)
    } catch (error) {
      signal.throwIfAborted()
      if (!isRetryable(error) || backoff.failures + 1 >= maxTries) throw error
      await backoff.wait(signal)
    }
  }
}

/** A server that has some of the pieces. */
export interface FetchSource {
  /** Names it in remarks. */
  readonly name: string
  /** Whether it has a tensor or file. */
  readonly has: (piece: Pick<MissingPiece, 'kind' | 'name'>) => boolean
  /** Opens a stream of the weights protocol. */
  readonly open: (signal: AbortSignal) => Promise<Stream>
}

export interface FetchFromSeveralOptions {
  readonly onProgress?: (bytes: number) => void
  /** Called when a source is given up; another one sends what it had begun to send. */
  readonly onLost?: (source: FetchSource, error: unknown) => void
  readonly retryMs?: number
}

/**
 * Fetches all pieces that the store lacks from several servers at once, each piece from one of them. The first source has every piece and
 * is tried again and again, as `fetchPieces` does; another one is given up when it fails once, or sends bytes that do not match their
 * hash. Throws what fetching from the first source throws.
 */
export async function fetchFromSeveral (
  store: PieceStore,
  [first, ...others]: readonly [FetchSource, ...FetchSource[]],
  { onProgress, onLost = () => {}, retryMs }: FetchFromSeveralOptions,
  signal: AbortSignal
): Promise<void> {
  const claims = new PieceClaims(store)
  const options = { ...(onProgress === undefined ? {} : { onProgress }), ...(retryMs === undefined ? {} : { retryMs }) }
  const ended = new AbortController()
  const rest = others.map(async (source) => {
    try {
      await fetchPieces(claims.of(source), { ...options, open: source.open, maxTries: 1 }, AbortSignal.any([signal, ended.signal]))
    } catch (error) {
      if (!signal.aborted && !ended.signal.aborted) onLost(source, error)
    } finally {
      claims.release(source)
    }
  })
  try {
    await fetchPieces(claims.of(first), { ...options, open: first.open }, signal)
    await Promise.all(rest)
    // What a source had begun before it was given up.
    await fetchPieces(store, { ...options, open: first.open }, signal)
  } finally {
    ended.abort(new ChannelClosedError())
    await Promise.all(rest)
  }
}

/** Shares a store's missing pieces among sources: each source sees the one that it fetches, or the next that nobody else fetches. */
class PieceClaims {
  readonly #store: PieceStore
  /** The source that fetches a piece, by the piece's hash. */
  readonly #claims = new Map<string, FetchSource>()

  constructor (store: PieceStore) {
    this.#store = store
  }

  of (source: FetchSource): PieceStore {
    return {
      pending: () => {
        const pending = this.#store.pending()
        const next = pending.find(({ sha256 }) => this.#claims.get(sha256) === source) ??
          pending.find((piece) => !this.#claims.has(piece.sha256) && source.has(piece))
        if (next === undefined) return []
        this.#claims.set(next.sha256, source)
        return [next]
      },
      append: async (sha256, offset, bytes) => await this.#store.append(sha256, offset, bytes)
    }
  }

  release (source: FetchSource): void {
    for (const [sha256, holder] of this.#claims) if (holder === source) this.#claims.delete(sha256)
  }
}

async function fetchOverOneStream (
  store: PieceStore,
  stream: Stream,
  onProgress: (bytes: number) => void,
  signal: AbortSignal
): Promise<void> {
  const control = new ControlStream(stream, asClient)
  try {
    for (let piece = store.pending()[0]; piece !== undefined; piece = store.pending()[0]) {
      await fetchPiece(store, control, piece, onProgress, signal)
    }
    await control.close(signal)
  } catch (error) {
    control.abort(error as Error)
    throw error
  }
}

async function fetchPiece (
  store: PieceStore,
  control: ControlStream<Request, Part>,
  piece: MissingPiece,
  onProgress: (bytes: number) => void,
  signal: AbortSignal
): Promise<void> {
  const { kind, name, sha256, bytes } = piece
  let { offset } = piece
  await control.write(create(RequestSchema, { kind: kinds.indexOf(kind), name, offset: BigInt(offset) }), undefined, signal)
  do {
    const { message, payload } = await control.read(signal)
    if (Number(message.size) !== bytes)
      throw new BadMessageError(`${name} has ${bytes} bytes in the charter, and ${message.size} at the server`)
    if (Number(message.offset) !== offset)
      throw new BadMessageError(`byte ${message.offset} of ${name} came where byte ${offset} was expected`)
    if (payload.byteLength === 0 && bytes > 0) throw new BadMessageError(`an empty part of ${name}`)
    offset = await store.append(sha256, offset, payload)
    onProgress(payload.byteLength)
  } while (offset < bytes)
}
