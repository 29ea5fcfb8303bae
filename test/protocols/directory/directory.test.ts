import { describe, expect, it } from 'vitest'
import {
  ANNOUNCEMENT_LIFETIME_MS,
  Directory,
  KnownDirectory,
  MAX_ANNOUNCEMENT_LIFETIME_MS,
  MAX_SERVERS,
  type Announcement,
  type Delta,
  type DirectoryOptions
} from '../../../src/protocols/directory/index.ts'
import { announcementOf, idOf, load, NOW } from './fixture.ts'

const NOBODY = new Uint8Array(0)
const refusal = (code: string): object => expect.objectContaining({ code }) as object

function directoryAt (clock: { now: number } = { now: NOW }, options: Omit<DirectoryOptions, 'now'> = {}): Directory {
  return new Directory({ now: () => clock.now, ...options })
}

async function announce (directory: Directory, seed: number, changes = {}, nowMs = NOW) {
  return directory.announce(await announcementOf(seed, changes, nowMs), await idOf(seed))
}

/** Announcements of as many servers, whose signatures nobody checks here. */
async function manyAnnouncements (count: number): Promise<Announcement[]> {
  const announcement = await announcementOf(1)
  return Array.from({ length: count }, (_, index) => ({ ...announcement, peer: `peer-${index}` }))
}

const peersOf = ({ entries }: Pick<Delta, 'entries'>): string[] => entries.map(({ peer }) => peer)

describe('a directory', () => {
  it('tells a member that knows nothing everything, and then what changed', async () => {
    const directory = directoryAt()
    await announce(directory, 1)
    const all = directory.since(NOBODY, 0)
    expect(all).toMatchObject({ complete: true, removed: [] })
    expect(peersOf(all)).toEqual([await idOf(1)])
    await announce(directory, 2)
    const delta = directory.since(all.instance, all.version)
    expect(delta).toMatchObject({ complete: false, removed: [] })
    expect(peersOf(delta)).toEqual([await idOf(2)])
    directory.remove(await idOf(1))
    expect(directory.since(delta.instance, delta.version)).toMatchObject({ complete: false, entries: [], removed: [await idOf(1)] })
  })

  it('tells everything to a member that knows another instance, or a version that is none', async () => {
    const [directory, before] = [directoryAt(), directoryAt()]
    await announce(directory, 1)
    expect(directory.since(before.instance, 0).complete).toBe(true)
    expect(directory.since(directory.instance, 99).complete).toBe(true)
  })

  it('tells everything to a member that missed more removals than are remembered', async () => {
    const directory = directoryAt(undefined, { maxRemovals: 2 })
    for (const seed of [1, 2, 3, 4]) await announce(directory, seed)
    const { instance, version } = directory.since(NOBODY, 0)
    for (const seed of [1, 2]) directory.remove(await idOf(seed))
    expect(directory.since(instance, version)).toMatchObject({ complete: false, removed: [await idOf(1), await idOf(2)] })
    directory.remove(await idOf(3))
    expect(directory.since(instance, version).complete).toBe(true)
    expect(directory.since(instance, version + 1)).toMatchObject({ complete: false, removed: [await idOf(2), await idOf(3)] })
  })

  it('tells apart what changes the servers, their load, and nothing', async () => {
    const directory = directoryAt()
    expect(await announce(directory, 1)).toBe('servers')
    const { version } = directory
    expect(await announce(directory, 1, { sequence: 2 })).toBe('nothing')
    expect(directory.version).toBe(version)
    expect(await announce(directory, 1, { sequence: 3, load: { ...load, sessions: 4 } })).toBe('load')
    expect(await announce(directory, 1, { sequence: 4, span: { first: 3, end: 8 } })).toBe('servers')
    expect(await announce(directory, 1, { sequence: 5, span: { first: 3, end: 8 }, load: undefined })).toBe('load')
  })

  it('refuses an announcement again, and an earlier one, also of a server that has left', async () => {
    const directory = directoryAt()
    await announce(directory, 1, { sequence: 5 })
    await expect(announce(directory, 1, { sequence: 5 })).rejects.toEqual(refusal('E_ANNOUNCEMENT_REPLAYED'))
    directory.remove(await idOf(1))
    await expect(announce(directory, 1, { sequence: 4 })).rejects.toEqual(refusal('E_ANNOUNCEMENT_REPLAYED'))
    expect(await announce(directory, 1, { sequence: 6 })).toBe('servers')
  })

  it("refuses what a peer says in another one's name", async () => {
    const directory = directoryAt()
    const forged = await announcementOf(1)
    const from = await idOf(2)
    expect(() => directory.announce(forged, from)).toThrow(refusal('E_ANNOUNCEMENT_PEER'))
  })

  it('refuses what expired, and what stands for too long', async () => {
    const directory = directoryAt()
    await expect(announce(directory, 1, {}, NOW - ANNOUNCEMENT_LIFETIME_MS)).rejects.toEqual(refusal('E_ANNOUNCEMENT_EXPIRED'))
    const latest = NOW + MAX_ANNOUNCEMENT_LIFETIME_MS - ANNOUNCEMENT_LIFETIME_MS
    await expect(announce(directory, 1, {}, latest + 1)).rejects.toEqual(refusal('E_ANNOUNCEMENT_EXPIRED'))
    expect(await announce(directory, 1, {}, latest)).toBe('servers')
  })

  it('has a bounded number of servers', async () => {
    const directory = directoryAt()
    const [last, ...others] = await manyAnnouncements(MAX_SERVERS + 1) as [Announcement, ...Announcement[]]
    for (const announcement of others) directory.announce(announcement, announcement.peer)
    expect(() => directory.announce(last, last.peer)).toThrow(refusal('E_DIRECTORY_FULL'))
    expect(directory.announce({ ...others[0]!, sequence: 2 }, others[0]!.peer)).toBe('nothing')
  })

  it('takes out servers that do not announce themselves any more', async () => {
    const clock = { now: NOW }
    const directory = directoryAt(clock)
    await announce(directory, 1)
    await announce(directory, 2)
    clock.now = NOW + ANNOUNCEMENT_LIFETIME_MS - 1
    await announce(directory, 2, { sequence: 2 }, clock.now)
    expect(directory.expire()).toEqual([])
    clock.now++
    expect(directory.expire()).toEqual([await idOf(1)])
    expect(directory.announcements().map(({ peer }) => peer)).toEqual([await idOf(2)])
  })
})

describe("a member's copy", () => {
  it('is of the latest servers where one coordinator after another tells of too many', async () => {
    const copy = new KnownDirectory([], () => NOW)
    const entries = await manyAnnouncements(MAX_SERVERS + 1)
    copy.apply({ instance: Uint8Array.of(1), version: 1, complete: true, entries: entries.slice(0, 1), removed: [] })
    copy.apply({ instance: Uint8Array.of(2), version: 1, complete: true, entries: entries.slice(1), removed: [] })
    expect([...copy.entries.values()]).toEqual(entries.slice(1))
  })

  it('is what the directory is, after any changes', async () => {
    const directory = directoryAt()
    const copy = new KnownDirectory([], () => NOW)
    const follow = (): string => {
      const { instance, version } = copy.known
      return copy.apply(directory.since(instance, version))
    }
    const steps: Array<[seed: number, changes: object | undefined]> = [
      [1, {}], [2, {}], [1, { sequence: 2, span: { first: 1, end: 5 } }], [2, undefined], [3, {}], [2, { sequence: 9 }], [3, undefined]
    ]
    for (const [index, [seed, changes]] of steps.entries()) {
      if (changes === undefined) directory.remove(await idOf(seed))
      else await announce(directory, seed, changes)
      if (index % 2 === 0) expect(follow()).toBe('servers')
    }
    follow()
    expect([...copy.entries.values()].toSorted((a, b) => a.peer.localeCompare(b.peer)))
      .toEqual(directory.announcements().toSorted((a, b) => a.peer.localeCompare(b.peer)))
    expect(follow()).toBe('nothing')
    await announce(directory, 1, { sequence: 20, span: { first: 1, end: 5 }, load: undefined })
    expect(follow()).toBe('load')
  })

  it('keeps servers that a restarted coordinator has not heard of, until they expire', async () => {
    const clock = { now: NOW }
    const [known, late] = [await announcementOf(1), await announcementOf(2)]
    const copy = new KnownDirectory([known, late], () => clock.now)
    const restarted = directoryAt(clock)
    await announce(restarted, 1, { sequence: 2 })
    const { instance, version } = copy.known
    copy.apply(restarted.since(instance, version))
    expect([...copy.entries.keys()].toSorted()).toEqual([await idOf(1), await idOf(2)].toSorted())
    clock.now += ANNOUNCEMENT_LIFETIME_MS
    const again = new Directory({ now: () => clock.now })
    copy.apply(again.since(NOBODY, 0))
    expect(copy.entries.size).toBe(0)
  })
})
