import { randomBytes } from 'node:crypto'
import type { Announcement, AnnouncedLoad } from './announcement.ts'
import { MAX_ANNOUNCEMENT_LIFETIME_MS, MAX_SERVERS } from './constants.ts'
import { AnnouncementError } from './errors.ts'

/** What an announcement changed for those who read the directory: the servers or what they serve, their load alone, or nothing. */
export type Change = 'servers' | 'load' | 'nothing'

/** The changes from one version of a directory to another. */
export interface Delta {
  readonly instance: Uint8Array
  readonly version: number
  /** Whether `entries` are all entries, and not those alone that changed. */
  readonly complete: boolean
  readonly entries: readonly Announcement[]
  /** Peer ids. */
  readonly removed: readonly string[]
}

interface Entry {
  readonly announcement: Announcement
  /** The version in which it became what it is. */
  readonly version: number
}

/** Removals that are told one by one; a member that missed more of them is told everything. */
const MAX_REMOVALS = 256

export interface DirectoryOptions {
  readonly now?: () => number
  readonly maxServers?: number
  readonly maxRemovals?: number
}

/** Drawn by each coordinator that starts, so that nobody takes its versions for those of before. */
const INSTANCE_BYTES = 16

/**
 * The coordinator's list of servers: who serves which blocks, and until when that stands. Holds no sockets, and at most as much as
 * MAX_SERVERS announcements. Signatures are checked before announcements come here.
 */
export class Directory {
  readonly instance: Uint8Array
  readonly #now: () => number
  readonly #maxServers: number
  readonly #maxRemovals: number
  readonly #entries = new Map<string, Entry>()
  /** The number of each server's last announcement, and until when that could be replayed. */
  readonly #sequences = new Map<string, { readonly sequence: number, readonly untilMs: number }>()
  /** The versions in which servers were removed, by peer id, the earliest first. */
  readonly #removals = new Map<string, number>()
  /** Members that know an earlier version are told everything. */
  #oldestVersion = 0
  #version = 0

  constructor ({ now = Date.now, maxServers = MAX_SERVERS, maxRemovals = MAX_REMOVALS }: DirectoryOptions = {}) {
    this.instance = new Uint8Array(randomBytes(INSTANCE_BYTES))
    this.#now = now
    this.#maxServers = maxServers
    this.#maxRemovals = maxRemovals
  }

  /** Grows with each change. */
  get version (): number { return this.#version }

  /** Every server's announcement, in the order in which they came. */
  announcements (): Announcement[] {
    return [...this.#entries.values()].map(({ announcement }) => announcement)
  }

  /** Takes in what the peer `from` says of itself. Throws AnnouncementError. */
  announce (announcement: Announcement, from: string): Change {
    const { peer, sequence, expiresAtMs } = announcement
    const nowMs = this.#now()
    if (peer !== from) throw new AnnouncementError('peer', `it is ${peer}'s, and came from ${from}`)
    if (expiresAtMs <= nowMs)
      throw new AnnouncementError('expired', `it expired at ${new Date(expiresAtMs).toISOString()}`)
    if (expiresAtMs > nowMs + MAX_ANNOUNCEMENT_LIFETIME_MS)
      throw new AnnouncementError('expired', `it stands until ${new Date(expiresAtMs).toISOString()}, which is too long`)
    this.#forgetSequences(nowMs)
    if (sequence <= (this.#sequences.get(peer)?.sequence ?? -1)) throw new AnnouncementError('replayed', 'a later one came before it')
    const before = this.#entries.get(peer)
    if (before === undefined && this.#entries.size >= this.#maxServers)
      throw new AnnouncementError('full', `the directory has its ${this.#maxServers} servers already`)
    this.#sequences.set(peer, { sequence, untilMs: nowMs + MAX_ANNOUNCEMENT_LIFETIME_MS })
    const change = changeBetween(before?.announcement, announcement)
    if (change !== 'nothing') this.#version++
    this.#entries.set(peer, { announcement, version: change === 'nothing' ? before!.version : this.#version })
    this.#removals.delete(peer)
    return change
  }

  /** Takes a server out: it stops, or has no place any more. Returns whether it was there. */
  remove (peer: string): boolean {
    if (!this.#entries.delete(peer)) return false
    this.#removals.set(peer, ++this.#version)
    if (this.#removals.size > this.#maxRemovals) {
      const [earliest, version] = this.#removals.entries().next().value as [string, number]
      this.#removals.delete(earliest)
      this.#oldestVersion = version
    }
    return true
  }

  /** Takes out servers that did not announce themselves in time. Returns their peer ids. */
  expire (): string[] {
    const nowMs = this.#now()
    const expired = [...this.#entries.values()].filter(({ announcement }) => announcement.expiresAtMs <= nowMs)
      .map(({ announcement: { peer } }) => peer)
    for (const peer of expired) this.remove(peer)
    return expired
  }

  /** Returns what a member lacks that knows a version of an instance; an empty instance knows nothing. */
  since (instance: Uint8Array, version: number): Delta {
    const head = { instance: this.instance, version: this.#version }
    if (Buffer.compare(instance, this.instance) !== 0 || version < this.#oldestVersion || version > this.#version)
      return { ...head, complete: true, entries: this.announcements(), removed: [] }
    return {
      ...head,
      complete: false,
      entries: [...this.#entries.values()].filter((entry) => entry.version > version).map(({ announcement }) => announcement),
      removed: [...this.#removals].filter(([, removed]) => removed > version).map(([peer]) => peer)
    }
  }

  #forgetSequences (nowMs: number): void {
    for (const [peer, { untilMs }] of this.#sequences) if (untilMs <= nowMs && !this.#entries.has(peer)) this.#sequences.delete(peer)
  }
}

/** Says what a server's newest announcement changes for those who know the one before it. */
export function changeBetween (before: Announcement | undefined, after: Announcement): Change {
  if (before === undefined) return 'servers'
  const served = ({ span: { first, end }, addresses, agent, protocols, placement }: Announcement): string =>
    JSON.stringify([first, end, addresses, agent, protocols, placement])
  if (served(before) !== served(after)) return 'servers'
  return isSameLoad(before.load, after.load) ? 'nothing' : 'load'
}

function isSameLoad (before: AnnouncedLoad | undefined, after: AnnouncedLoad | undefined): boolean {
  return before === undefined || after === undefined
    ? before === after
    : (Object.keys(after) as Array<keyof AnnouncedLoad>).every((key) => before[key] === after[key])
}
