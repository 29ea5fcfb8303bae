import type { Announcement } from './announcement.ts'
import { MAX_SERVERS } from './constants.ts'
import { changeBetween, type Change } from './directory.ts'
import type { DirectoryUpdate } from './member.ts'

/**
 * A member's copy of the directory. While the coordinator is away the member works on with it. When another coordinator process takes over,
 * servers that it does not know yet stay until their announcements expire: they are about to announce themselves to it.
 */
export class KnownDirectory {
  readonly #now: () => number
  #entries: ReadonlyMap<string, Announcement>
  #instance = new Uint8Array(0)
  #version = 0

  constructor (entries: readonly Announcement[] = [], now: () => number = Date.now) {
    this.#entries = new Map(entries.map((entry) => [entry.peer, entry]))
    this.#now = now
  }

  /** What this copy is of, as the coordinator has to be told. */
  get known (): { readonly instance: Uint8Array, readonly version: number } {
    return { instance: this.#instance, version: this.#version }
  }

  /** By peer id. */
  get entries (): ReadonlyMap<string, Announcement> { return this.#entries }

  /** Takes in an update. Returns what of the copy is another than before. */
  apply ({ instance, version, complete, entries, removed }: Omit<DirectoryUpdate, 'certificate' | 'revocations'>): Change {
    const isSameInstance = Buffer.compare(instance, this.#instance) === 0
    const before = this.#entries
    const kept = [...before.values()].filter(({ peer, expiresAtMs }) => {
      if (!complete) return !removed.includes(peer)
      return !isSameInstance && expiresAtMs > this.#now()
    })
    const next = new Map([...kept, ...entries].slice(-MAX_SERVERS).map((entry) => [entry.peer, entry]))
    this.#entries = next
    this.#instance = new Uint8Array(instance)
    this.#version = version
    if ([...before.keys()].some((peer) => !next.has(peer))) return 'servers'
    const changes = [...next].map(([peer, entry]) => changeBetween(before.get(peer), entry))
    return (['servers', 'load'] as const).find((change) => changes.includes(change)) ?? 'nothing'
  }
}
