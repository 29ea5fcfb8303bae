import { z } from 'zod'
import { muSquaredOfRow } from './accountant.ts'

export const purposes = ['train', 'evaluate', 'generate'] as const
export const releaseKinds = ['hidden', 'gradient'] as const
export type Purpose = typeof purposes[number]

const count = z.int().min(0)

/** One release: rows that left in one message, hidden states on the way up or gradients. */
export const releaseEntrySchema = z.strictObject({
  purpose: z.enum(purposes),
  kind: z.enum(releaseKinds),
  /** The work that it is of: a training run on its data, one evaluation, one generated text. */
  work: z.string().max(128),
  /** The place of the batch in the data. A record is in one batch of an epoch, or in two that follow one another. */
  epoch: count,
  index: count,
  rows: count,
  sequences: count,
  /**
   * Rows of one pass over the data that replacing one record, by one of the same length, can change, at most. They may be more than those
   * of this release, where a record is in several batches.
   */
  recordRows: count,
  /** The L2 norm of a row at most; null where rows are not clipped. */
  clip: z.number().positive().nullable(),
  noise: z.number().min(0),
  /** Names the released bytes: equal bytes are one release. */
  digest: z.string().max(64)
})

export type ReleaseEntry = z.infer<typeof releaseEntrySchema>

/** What adds up over releases for one unit of the data. */
const exposureSchema = z.strictObject({
  /** mu² of the rows that left with noise. */
  muSquared: z.number().min(0),
  /** Rows that left without noise: they have no guarantee at all. */
  bareRows: count
})

export type Exposure = z.infer<typeof exposureSchema>

/** The releases of one kind that share their protection. */
const groupSchema = z.strictObject({
  purpose: z.enum(purposes),
  kind: z.enum(releaseKinds),
  clip: z.number().positive().nullable(),
  noise: z.number().min(0),
  releases: count,
  rows: count,
  sequences: count
})

export type ReleaseGroup = z.infer<typeof groupSchema>

/** How far one record of some work's data is exposed: the sum over epochs of its worst batch. */
const workSchema = z.strictObject({
  purpose: z.enum(purposes),
  work: z.string().max(128),
  epoch: count,
  index: count,
  /** Over the epochs that are over. */
  past: exposureSchema,
  /** The worst of the epoch's batches that are over. */
  worst: exposureSchema,
  /** The batch at the place. */
  current: exposureSchema
})

type Work = z.infer<typeof workSchema>

/** Works that are over, and are kept as figures alone. */
const endedSchema = z.strictObject({ purpose: z.enum(purposes), works: count, worst: exposureSchema, sum: exposureSchema })

type Ended = z.infer<typeof endedSchema>

export const ledgerStateSchema = z.strictObject({
  groups: z.array(groupSchema),
  works: z.array(workSchema),
  ended: z.array(endedSchema),
  /** Digests of the newest releases, the oldest first. */
  remembered: z.array(z.strictObject({ purpose: z.enum(purposes), digests: z.array(z.string().max(64)) })),
  /** Entries that were lost to damage of the file. */
  unreadable: count
})

export type LedgerState = z.infer<typeof ledgerStateSchema>

/** How far one record was exposed, in the works of one purpose. */
export interface PurposeExposure {
  readonly purpose: Purpose
  readonly works: number
  /** A record of the work that exposes its records most. */
  readonly worst: Exposure
  /** A record that is in the data of every work. */
  readonly everywhere: Exposure
}

/**
 * Digests that are remembered for each purpose, so that bytes that leave again are known. A client sends the passes of its round again, and
 * after a restart a batch: far fewer. Bytes that leave again later are counted as another release, which makes the figures worse.
 */
export const MAX_REMEMBERED_RELEASES = 1024

/** Works of each purpose that go on: trainings, evaluations and texts at the same time. More are folded into figures. */
export const MAX_OPEN_WORKS = 64

const NOTHING: Exposure = { muSquared: 0, bareRows: 0 }

/**
 * Counts what a client released. It holds sums, and grows with the number of protections alone. Where it cannot know it assumes the worse.
 */
export class Ledger {
  readonly #hidden: number
  readonly #groups = new Map<string, ReleaseGroup>()
  /** By purpose and work; the one that was used last stands last. */
  readonly #works = new Map<string, Work>()
  readonly #ended = new Map<Purpose, Ended>()
  readonly #remembered = new Map<Purpose, Set<string>>()
  #unreadable: number

  /** `hidden` is the number of coordinates of a row. */
  constructor (hidden: number, state?: LedgerState) {
    this.#hidden = hidden
    for (const group of state?.groups ?? []) this.#groups.set(groupKey(group), { ...group })
    for (const work of state?.works ?? []) this.#works.set(workKey(work), { ...work })
    for (const ended of state?.ended ?? []) this.#ended.set(ended.purpose, { ...ended })
    for (const { purpose, digests } of state?.remembered ?? []) this.#remembered.set(purpose, new Set(digests))
    this.#unreadable = state?.unreadable ?? 0
  }

  /** Whether these bytes have left before, as far as is remembered. */
  knows ({ purpose, digest }: Pick<ReleaseEntry, 'purpose' | 'digest'>): boolean {
    return this.#remembered.get(purpose)?.has(digest) === true
  }

  /** Counts a release, unless its bytes have left before. */
  add (entry: ReleaseEntry): void {
    if (this.knows(entry)) return
    const { purpose, kind, clip, noise, rows, sequences, digest } = entry
    const group = this.#groups.get(groupKey(entry)) ?? { purpose, kind, clip, noise, releases: 0, rows: 0, sequences: 0 }
    this.#groups.set(groupKey(entry), {
      ...group, releases: group.releases + 1, rows: group.rows + rows, sequences: group.sequences + sequences
    })
    this.#expose(entry)
    const digests = this.#remembered.get(purpose) ?? new Set<string>()
    this.#remembered.set(purpose, digests.add(digest))
    for (const oldest of digests) {
      if (digests.size <= MAX_REMEMBERED_RELEASES) break
      digests.delete(oldest)
    }
  }

  /** Notes entries that were lost, so that the figures are too low. */
  addUnreadable (entries: number): void {
    this.#unreadable += entries
  }

  /** Entries that were lost to damage of the file. */
  get unreadable (): number { return this.#unreadable }

  get groups (): readonly ReleaseGroup[] { return [...this.#groups.values()] }

  /** How far all released rows together are exposed: the unit is everything that this client ever sent. */
  get total (): Exposure {
    return [...this.#groups.values()].map(({ rows, clip, noise }) => this.#exposureOf(rows, clip, noise)).reduce(plus, NOTHING)
  }

  /** How far one record is exposed, for each purpose that had a release. */
  get purposes (): PurposeExposure[] {
    return purposes.flatMap((purpose) => {
      const ended = this.#ended.get(purpose)
      const open = [...this.#works.values()].filter((work) => work.purpose === purpose).map(exposureOfWork)
      const works = open.length + (ended?.works ?? 0)
      return works === 0
        ? []
        : [{
          purpose,
          works,
          worst: open.reduce(greater, ended?.worst ?? NOTHING),
          everywhere: open.reduce(plus, ended?.sum ?? NOTHING)
        }]
    })
  }

  /** Returns everything, for `new Ledger`. */
  get state (): LedgerState {
    return {
      groups: [...this.#groups.values()],
      works: [...this.#works.values()],
      ended: [...this.#ended.values()],
      remembered: [...this.#remembered].map(([purpose, digests]) => ({ purpose, digests: [...digests] })),
      unreadable: this.#unreadable
    }
  }

  #exposureOf (rows: number, clip: number | null, noise: number): Exposure {
    return clip === null || noise === 0
      ? { muSquared: 0, bareRows: rows }
      : { muSquared: rows * muSquaredOfRow(noise, this.#hidden), bareRows: 0 }
  }

  #expose (entry: ReleaseEntry): void {
    const { purpose, work: name, epoch, index, recordRows, clip, noise } = entry
    const added = this.#exposureOf(recordRows, clip, noise)
    const key = workKey(entry)
    const work = this.#works.get(key) ?? { purpose, work: name, epoch, index, past: NOTHING, worst: NOTHING, current: NOTHING }
    this.#works.delete(key)
    this.#works.set(key, movedTo(work, epoch, index, added))
    const open = [...this.#works].filter(([, { purpose: other }]) => other === purpose)
    for (const [oldest, over] of open.slice(0, Math.max(0, open.length - MAX_OPEN_WORKS))) {
      this.#works.delete(oldest)
      const exposure = exposureOfWork(over)
      const ended = this.#ended.get(purpose) ?? { purpose, works: 0, worst: NOTHING, sum: NOTHING }
      this.#ended.set(purpose, {
        purpose, works: ended.works + 1, worst: greater(ended.worst, exposure), sum: plus(ended.sum, exposure)
      })
    }
  }
}

/**
 * Adds an exposure at a place in the data. A record is released once in an epoch, and more often where its batch is; an epoch that begins
 * anew, as when a run starts afresh, is another epoch.
 */
function movedTo (work: Work, epoch: number, index: number, added: Exposure): Work {
  const { past, worst, current } = work
  if (epoch === work.epoch && index === work.index) return { ...work, current: plus(current, added) }
  const soFar = greater(worst, current)
  return epoch === work.epoch && index > work.index
    ? { ...work, index, worst: soFar, current: added }
    : { ...work, epoch, index, past: plus(past, soFar), worst: NOTHING, current: added }
}

function exposureOfWork ({ past, worst, current }: Work): Exposure {
  return plus(past, greater(worst, current))
}

function plus (a: Exposure, b: Exposure): Exposure {
  return { muSquared: a.muSquared + b.muSquared, bareRows: a.bareRows + b.bareRows }
}

/** The greater of each: no less than either. */
function greater (a: Exposure, b: Exposure): Exposure {
  return { muSquared: Math.max(a.muSquared, b.muSquared), bareRows: Math.max(a.bareRows, b.bareRows) }
}

function groupKey ({ purpose, kind, clip, noise }: Pick<ReleaseGroup, 'purpose' | 'kind' | 'clip' | 'noise'>): string {
  return JSON.stringify([purpose, kind, clip, noise])
}

function workKey ({ purpose, work }: Pick<ReleaseEntry, 'purpose' | 'work'>): string {
  return JSON.stringify([purpose, work])
}
