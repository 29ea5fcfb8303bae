import { setTimeout as delay } from 'node:timers/promises'
import { MidspanError } from '../../../errors.ts'
import type { Model } from '../../../model/families/index.ts'
import { cacheBytes } from '../../../model/generation/cache-size.ts'
import { SequenceCache } from '../../../model/generation/kv-cache.ts'
import type { Device } from '../../../model/runtime/device.ts'
import type { Span } from '../../../span.ts'

/** Thrown when there is no room for the KV cache of a new sequence. A smaller sequence, or the same one later, may find room. */
export class CacheFullError extends MidspanError {
  constructor (wantedBytes: number, freeBytes: number) {
    super('E_CACHE_FULL', `the sequence needs ${wantedBytes} bytes of cache, and the server has ${freeBytes} left`, {
      next: 'ask for fewer tokens, or try again later'
    })
  }
}

/**
 * Thrown at the next request of a sequence whose idle KV cache was given up for another client. The client can open the sequence anew and
 * send its hidden states again.
 */
export class CacheEvictedError extends MidspanError {
  constructor () {
    super('E_CACHE_EVICTED', 'the cache of the idle sequence was given up for another client', {
      next: 'open the sequence again and repeat what was sent', retryable: true
    })
  }
}

/** After this time without a request, any client that needs the room may have a cache evicted. */
const IDLE_MS = 5_000

/** How long the opening of a sequence waits for others' caches to become idle or to be closed. */
const OPEN_TIMEOUT_MS = 10_000

/** A sequence of one client, whose KV cache the manager accounts for. */
export interface CachedSequence {
  /** Names the sequence; unique among those that are open. */
  readonly id: string
  readonly client: string
  readonly span: Span
  readonly cache: SequenceCache
}

/** What is known of the cache of one open sequence. */
export interface Account {
  readonly client: string
  readonly bytes: number
  /** When its last request ended, or the cache was opened. */
  readonly usedAtMs: number
  /** Whether it has a request, so that its cache cannot be taken. */
  readonly isBusy: boolean
}

/**
 * Chooses the caches to evict, least recently used first, so that `client` can have `bytes` more of `totalBytes`. Returns their ids, or
 * undefined where there is no way. A cache that has a request stays. Of the others, those that were not used for IDLE_MS may go; and, where
 * the client stays within an equal share of all clients that hold caches, those of clients beyond that share, down to the share. What a
 * client has within its share is therefore not taken from it while it is in use, unless more clients come.
 */
export function chooseEvictions (
  accounts: ReadonlyMap<string, Account>,
  { client, bytes }: Pick<Account, 'client' | 'bytes'>,
  totalBytes: number,
  nowMs: number
): string[] | undefined {
  const held = new Map<string, number>([[client, 0]])
  for (const account of accounts.values()) held.set(account.client, (held.get(account.client) ?? 0) + account.bytes)
  const shareBytes = totalBytes / held.size
  const isWithinShare = held.get(client)! + bytes <= shareBytes
  let freeBytes = totalBytes - [...held.values()].reduce((sum, holderBytes) => sum + holderBytes, 0)
  const evicted: string[] = []
  const unused = [...accounts].filter(([, { isBusy }]) => !isBusy).sort(([, a], [, b]) => a.usedAtMs - b.usedAtMs)
  for (const [id, account] of unused) {
    if (bytes <= freeBytes) break
    const holderBytes = held.get(account.client)!
    if (nowMs - account.usedAtMs < IDLE_MS && !(isWithinShare && holderBytes > shareBytes)) continue
    evicted.push(id)
    held.set(account.client, holderBytes - account.bytes)
    freeBytes += account.bytes
  }
  return bytes <= freeBytes ? evicted : undefined
}

interface Entry extends Account {
  isBusy: boolean
  usedAtMs: number
  /** Undefined while the cache is being made. */
  cache: SequenceCache | undefined
}

export interface CacheManagerComponents {
  readonly device: Device
  readonly model: Model
  /** Device memory for the caches of all sequences together. */
  readonly totalBytes: number
  /** Milliseconds since any fixed moment. */
  readonly now?: () => number
}

/** Accounts for the KV caches of all clients before their memory is taken, and gives up idle ones where another client needs the room. */
export class CacheManager {
  readonly #c: Required<CacheManagerComponents>
  /** By the id of the sequence. */
  readonly #entries = new Map<string, Entry>()
  #evictions = 0
  /** Resolves when a cache is closed or becomes idle. */
  #change = Promise.withResolvers<void>()

  constructor (components: CacheManagerComponents) {
    this.#c = { now: () => performance.now(), ...components }
  }

  /** The number of sequences whose caches are held. */
  get sequences (): number { return this.#entries.size }

  /** Device memory that the caches of all sequences may grow to. */
  get heldBytes (): number {
    return [...this.#entries.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** Device memory that the caches have by now. */
  get allocatedBytes (): number {
    return [...this.#entries.values()].reduce((sum, { cache }) => sum + (cache?.bytes ?? 0), 0)
  }

  /** The number of caches that were given up for other clients so far. */
  get evictions (): number { return this.#evictions }

  /**
   * Opens a sequence of up to `capacity` tokens. Where there is no room for its cache, it evicts idle caches, and waits for a while where
   * none may be evicted. The caller closes the sequence. Throws CacheFullError.
   */
  async open (id: string, client: string, span: Span, capacity: number, signal?: AbortSignal): Promise<CachedSequence> {
    const { device, model } = this.#c
    const entry = await this.#reserve(id, client, cacheBytes(model, span, capacity), signal)
    try {
      const cache = await SequenceCache.create(device, model, span, capacity)
      entry.cache = cache
      this.#setIdle(entry)
      return { id, client, span, cache }
    } catch (error) {
      this.#remove(id)
      throw error
    }
  }

  /** Marks the cache of a sequence as in use, so that it stays. Throws CacheEvictedError where it was given up. */
  acquire ({ id }: CachedSequence): void {
    const entry = this.#entries.get(id)
    if (entry === undefined) throw new CacheEvictedError()
    entry.isBusy = true
  }

  /** Marks the cache of a sequence as idle from now on. */
  release ({ id }: CachedSequence): void {
    const entry = this.#entries.get(id)
    if (entry !== undefined) this.#setIdle(entry)
  }

  /** Frees the cache of a sequence that no run uses, unless it was given up before. */
  close ({ id }: CachedSequence): void {
    this.#remove(id)
  }

  /** Accounts for a cache, once there is room for it. */
  async #reserve (id: string, client: string, bytes: number, signal?: AbortSignal): Promise<Entry> {
    const { totalBytes, now } = this.#c
    const deadlineMs = now() + OPEN_TIMEOUT_MS
    for (;;) {
      signal?.throwIfAborted()
      const evicted = chooseEvictions(this.#entries, { client, bytes }, totalBytes, now())
      if (evicted !== undefined) {
        for (const idle of evicted) this.#remove(idle)
        this.#evictions += evicted.length
        const entry: Entry = { client, bytes, isBusy: true, usedAtMs: now(), cache: undefined }
        this.#entries.set(id, entry)
        return entry
      }
      const leftMs = deadlineMs - now()
      if (leftMs <= 0 || bytes > totalBytes) throw new CacheFullError(bytes, totalBytes - this.heldBytes)
      await this.#changeWithin(Math.min(leftMs, this.#untilIdleMs()), signal)
    }
  }

  #setIdle (entry: Entry): void {
    entry.isBusy = false
    entry.usedAtMs = this.#c.now()
    this.#changed()
  }

  #remove (id: string): void {
    const entry = this.#entries.get(id)
    if (!this.#entries.delete(id)) return
    entry?.cache?.free()
    this.#changed()
  }

  #changed (): void {
    this.#change.resolve()
    this.#change = Promise.withResolvers()
  }

  /** Returns the time until the next unused cache may be evicted for anybody. */
  #untilIdleMs (): number {
    const nowMs = this.#c.now()
    const times = [...this.#entries.values()].filter(({ isBusy }) => !isBusy).map(({ usedAtMs }) => usedAtMs + IDLE_MS - nowMs)
    return Math.max(1, Math.min(...times.filter((ms) => ms > 0)))
  }

  /** Resolves when a cache is closed or becomes idle, or after this time. */
  async #changeWithin (timeoutMs: number, signal?: AbortSignal): Promise<void> {
    const timer = new AbortController()
    const until = signal === undefined ? timer.signal : AbortSignal.any([signal, timer.signal])
    try {
      await Promise.race([this.#change.promise, delay(timeoutMs, undefined, { signal: until })])
    } catch (error) {
      signal?.throwIfAborted()
      throw error
    } finally {
      timer.abort()
    }
  }
}
