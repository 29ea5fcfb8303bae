import { mkdtemp, open, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { LedgerFile, MAX_LEDGER_BYTES } from '../../../src/roles/client/ledger-file.ts'
import { COMPACT_BYTES, ReleaseLedger, type LedgerStore, type ReleaseNote } from '../../../src/roles/client/release-ledger.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'

const HIDDEN = 4

const note = (rows: number, changes: Partial<ReleaseNote> = {}): ReleaseNote => ({
  purpose: 'train', kind: 'hidden', work: 'run', epoch: 0, index: 0, rows, sequences: 1, recordRows: rows, clip: 1, noise: 0.5, ...changes
})

/** The bytes of a release that no other release has. */
const tensorsOf = (name: number): Tensor[] => [float32([1], [name])]

class Crash extends Error {}

/** A store in memory that can stop in the middle of a write, as a process that is killed does. */
class CrashingStore implements LedgerStore {
  bytes: Uint8Array | undefined
  /** Bytes that are written until the crash; undefined while there is none to come. */
  crashAfter: number | undefined

  async read (): Promise<Uint8Array | undefined> { return await Promise.resolve(this.bytes) }

  async append (bytes: Uint8Array, position: number): Promise<void> {
    const kept = this.bytes!.subarray(0, position)
    const written = this.crashAfter === undefined ? bytes : bytes.subarray(0, this.crashAfter)
    this.bytes = Buffer.concat([kept, written])
    await this.#maybeCrash()
  }

  async replace (bytes: Uint8Array): Promise<void> {
    // Whole or not at all.
    if (this.crashAfter === undefined || this.crashAfter % 2 === 0) this.bytes = Uint8Array.from(bytes)
    await this.#maybeCrash()
  }

  async close (): Promise<void> { await Promise.resolve() }

  async #maybeCrash (): Promise<void> {
    if (this.crashAfter !== undefined) throw new Crash()
    await Promise.resolve()
  }
}

const rowsCounted = ({ counted }: ReleaseLedger): number => counted.groups.reduce((sum, { rows }) => sum + rows, 0)

describe('a ledger that is written down', () => {
  it('counts what left, whatever crashes come in between', async () => {
    const event = fc.oneof(
      { weight: 6, arbitrary: fc.record({ do: fc.constant('release' as const), rows: fc.integer({ min: 1, max: 9 }) }) },
      { weight: 2, arbitrary: fc.constant({ do: 'repeat' as const }) },
      // The process is killed in a write, or between a write and the sending.
      {
        weight: 2,
        arbitrary: fc.record({ do: fc.constant('crash' as const), rows: fc.integer({ min: 1, max: 9 }), after: fc.integer({ min: 0, max: 400 }) })
      },
      { weight: 1, arbitrary: fc.constant({ do: 'restart' as const }) }
    )
    await fc.assert(
      fc.asyncProperty(fc.array(event, { maxLength: 25 }), async (events) => {
        const store = new CrashingStore()
        // So little that sums replace the entries again and again.
        const reopened = async (): Promise<ReleaseLedger> => await ReleaseLedger.open(store, HIDDEN, 1500)
        let ledger = await reopened()
        /** What a tap on the wire saw: rows by the bytes that they left as. */
        const tap = new Map<number, number>()
        let [name, last] = [0, undefined as { readonly name: number, readonly rows: number } | undefined]
        const send = async (release: { readonly name: number, readonly rows: number }): Promise<void> => {
          await ledger.record(note(release.rows), tensorsOf(release.name))
          tap.set(release.name, release.rows)
          last = release
        }
        for (const each of events) {
          if (each.do === 'release') await send({ name: name++, rows: each.rows })
          else if (each.do === 'repeat' && last !== undefined) await send(last)
          else if (each.do === 'crash') {
            const release = { name: name++, rows: each.rows }
            store.crashAfter = each.after
            const writing = ledger.record(note(release.rows), tensorsOf(release.name))
            await writing.catch((error: unknown) => { expect(error).toBeInstanceOf(Crash) })
            store.crashAfter = undefined
            ledger = await reopened()
            // After a restart the same rows leave as the same bytes.
            await send(release)
          } else ledger = await reopened()
          expect(rowsCounted(ledger)).toBe([...tap.values()].reduce((sum, rows) => sum + rows, 0))
        }
        expect(ledger.counted.unreadable).toBe(0)
        expect(ledger.counted.groups.reduce((sum, { releases }) => sum + releases, 0)).toBe(tap.size)
      }),
      { numRuns: 1000 }
    )
  })

  it('takes entries that come at once one after another', async () => {
    const store = new CrashingStore()
    const ledger = await ReleaseLedger.open(store, HIDDEN)
    await Promise.all(Array.from({ length: 20 }, async (_, i) => { await ledger.record(note(1), tensorsOf(i)) }))
    await Promise.all(Array.from({ length: 20 }, async () => { await ledger.record(note(1), tensorsOf(100)) }))
    expect(rowsCounted(await ReleaseLedger.open(store, HIDDEN))).toBe(21)
  })

  it('lets nothing leave that could not be written, and goes on when it can', async () => {
    const store = new CrashingStore()
    const ledger = await ReleaseLedger.open(store, HIDDEN)
    await ledger.record(note(1), tensorsOf(0))
    store.crashAfter = 30
    await expect(ledger.record(note(2), tensorsOf(1))).rejects.toBeInstanceOf(Crash)
    store.crashAfter = undefined
    await ledger.record(note(4), tensorsOf(2))
    expect(rowsCounted(ledger)).toBe(5)
    expect(rowsCounted(await ReleaseLedger.open(store, HIDDEN))).toBe(5)
  })

  it('reads what is not damaged of any bytes, or says that it cannot', async () => {
    const store = new CrashingStore()
    const ledger = await ReleaseLedger.open(store, HIDDEN)
    for (let i = 0; i < 12; i++) await ledger.record(note(1), tensorsOf(i))
    const whole = store.bytes!
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: whole.byteLength - 1 }), fc.integer({ min: 1, max: 255 }), async (at, change) => {
        const damaged = new CrashingStore()
        damaged.bytes = whole.map((byte, i) => i === at ? byte ^ change : byte)
        try {
          const { counted } = await ReleaseLedger.open(damaged, HIDDEN)
          const rows = counted.groups.reduce((sum, group) => sum + group.rows, 0)
          // A line that became two is counted as two that are lost.
          expect(rows).toBeGreaterThanOrEqual(10)
          expect(rows).toBeLessThanOrEqual(11)
        } catch (error) {
          expect(error).toMatchObject({ code: 'E_STATE' })
        }
      })
    )
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 300 }), async (bytes) => {
        const damaged = new CrashingStore()
        damaged.bytes = bytes
        await expect(ReleaseLedger.open(damaged, HIDDEN)).rejects.toMatchObject({ code: 'E_STATE' })
      })
    )
  })

  it('says that entries were lost, also after they were summed', async () => {
    const store = new CrashingStore()
    const ledger = await ReleaseLedger.open(store, HIDDEN)
    for (let i = 0; i < 3; i++) await ledger.record(note(1), tensorsOf(i))
    const text = Buffer.from(store.bytes!).toString()
    const lines = text.split('\n')
    lines[2] = lines[2]!.replace('hidden', 'hodden')
    store.bytes = Buffer.from(lines.join('\n'))
    for (let i = 0; i < 2; i++) {
      const { counted } = await ReleaseLedger.open(store, HIDDEN)
      expect(counted.unreadable).toBe(1)
      expect(counted.groups[0]!.rows).toBe(2)
    }
  })

  it('is of one model', async () => {
    const store = new CrashingStore()
    await ReleaseLedger.open(store, HIDDEN)
    await expect(ReleaseLedger.open(store, HIDDEN + 1)).rejects.toMatchObject({ code: 'E_STATE' })
  })
})

describe('the file of a ledger', () => {
  let root: string
  let path: string
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-ledger-'))
    path = join(root, 'releases.ledger')
  })
  afterEach(async () => { await rm(root, { recursive: true, force: true }) })

  it('is its owner\'s alone, and has what was recorded after each entry, also of a process that is killed', async () => {
    const ledger = await ReleaseLedger.open(new LedgerFile(path), HIDDEN)
    expect((await stat(path)).mode & 0o077).toBe(0)
    await ledger.record(note(3), tensorsOf(0))
    const other = await ReleaseLedger.open(new LedgerFile(path), HIDDEN)
    expect(rowsCounted(other)).toBe(3)
    await other.close()
    await ledger.close()
  })

  it('goes on behind a line that was cut off', async () => {
    const ledger = await ReleaseLedger.open(new LedgerFile(path), HIDDEN)
    await ledger.record(note(1), tensorsOf(0))
    await ledger.record(note(2), tensorsOf(1))
    await ledger.close()
    await truncate(path, (await stat(path)).size - 5)
    for (const [name, rows] of [[2, 4], [3, 8]] as const) {
      const again = await ReleaseLedger.open(new LedgerFile(path), HIDDEN)
      await again.record(note(rows), tensorsOf(name))
      await again.close()
    }
    expect(rowsCounted(await ReleaseLedger.open(new LedgerFile(path), HIDDEN))).toBe(13)
  })

  it('stays small: sums take the place of entries', async () => {
    const ledger = await ReleaseLedger.open(new LedgerFile(path), HIDDEN, 20_000)
    for (let i = 0; i < 400; i++) await ledger.record(note(1), tensorsOf(i))
    await ledger.close()
    expect((await stat(path)).size).toBeLessThan(COMPACT_BYTES)
    expect((await readFile(path, 'utf8')).split('\n').length).toBeLessThan(200)
    expect(rowsCounted(await ReleaseLedger.open(new LedgerFile(path), HIDDEN))).toBe(400)
  })

  it('is refused where it is larger than any', async () => {
    await writeFile(path, '')
    const handle = await open(path, 'r+')
    await handle.truncate(MAX_LEDGER_BYTES + 1)
    await handle.close()
    await expect(ReleaseLedger.open(new LedgerFile(path), HIDDEN)).rejects.toMatchObject({ code: 'E_STATE' })
  })
})
