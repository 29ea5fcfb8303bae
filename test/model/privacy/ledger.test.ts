import { describe, expect, it } from 'vitest'
import { muSquaredOfRow } from '../../../src/model/privacy/accountant.ts'
import { Ledger, MAX_OPEN_WORKS, MAX_REMEMBERED_RELEASES, type ReleaseEntry } from '../../../src/model/privacy/ledger.ts'

const HIDDEN = 64
const NOISE = 0.5
const ROW = muSquaredOfRow(NOISE, HIDDEN)

let next = 0
const release = (changes: Partial<ReleaseEntry> = {}): ReleaseEntry => ({
  purpose: 'train',
  kind: 'hidden',
  work: 'run',
  epoch: 0,
  index: 0,
  rows: 32,
  sequences: 4,
  recordRows: 10,
  clip: 3,
  noise: NOISE,
  digest: String(next++),
  ...changes
})

function ledgerOf (...entries: ReleaseEntry[]): Ledger {
  const ledger = new Ledger(HIDDEN)
  for (const entry of entries) ledger.add(entry)
  return ledger
}

const worstOf = (...entries: ReleaseEntry[]) => ledgerOf(...entries).purposes[0]!.worst

describe('a ledger of releases', () => {
  it('sums what left by purpose, kind and protection', () => {
    const others = [release({ kind: 'gradient' }), release({ noise: 1 }), release({ purpose: 'evaluate' })]
    const { groups } = ledgerOf(release(), release(), ...others)
    expect(groups.map(({ purpose, kind, noise, releases, rows }) => [purpose, kind, noise, releases, rows])).toEqual([
      ['train', 'hidden', NOISE, 2, 64],
      ['train', 'gradient', NOISE, 1, 32],
      ['train', 'hidden', 1, 1, 32],
      ['evaluate', 'hidden', NOISE, 1, 32]
    ])
  })

  it('counts the same bytes once, for as many releases as it remembers', () => {
    const first = release()
    const ledger = ledgerOf(first, first)
    expect(ledger.groups[0]!.releases).toBe(1)
    for (let i = 1; i < MAX_REMEMBERED_RELEASES; i++) ledger.add(release())
    expect(ledger.knows(first)).toBe(true)
    ledger.add(release())
    // From here on they count again, which makes the figures worse and not better.
    expect(ledger.knows(first)).toBe(false)
  })

  it('exposes a record by its rows, once for each release of its batch, in each epoch', () => {
    expect(worstOf(release()).muSquared).toBe(10 * ROW)
    expect(worstOf(release(), release({ kind: 'gradient' })).muSquared).toBe(20 * ROW)
    // Another batch has other records: the worst one counts.
    expect(worstOf(release(), release(), release({ index: 1 })).muSquared).toBe(20 * ROW)
    expect(worstOf(release(), release({ index: 1, recordRows: 12 })).muSquared).toBe(12 * ROW)
    expect(worstOf(release(), release({ epoch: 1 }), release({ epoch: 2 })).muSquared).toBe(30 * ROW)
    // A run that starts afresh.
    expect(worstOf(release({ index: 5 }), release({ index: 0 })).muSquared).toBe(20 * ROW)
  })

  it('keeps works apart, and adds them up for a record that is in the data of all', () => {
    const [{ works, worst, everywhere }] = ledgerOf(release(), release({ work: 'other', recordRows: 3 })).purposes as [
      Ledger['purposes'][number]
    ]
    expect([works, worst.muSquared, everywhere.muSquared]).toEqual([2, 10 * ROW, 13 * ROW])
  })

  it('keeps the figures of more works than it follows', () => {
    const rows = Array.from({ length: 3 * MAX_OPEN_WORKS }, (_, i) => 1 + i % 7)
    const ledger = ledgerOf(...rows.map((recordRows, i) => release({ purpose: 'generate', work: `text ${i}`, recordRows })))
    const [{ works, worst, everywhere }] = ledger.purposes as [Ledger['purposes'][number]]
    expect([works, worst.muSquared]).toEqual([3 * MAX_OPEN_WORKS, 7 * ROW])
    expect(everywhere.muSquared).toBeCloseTo(ROW * rows.reduce((a, b) => a + b), 6)
    expect(ledger.state.works).toHaveLength(MAX_OPEN_WORKS)
  })

  it('has no figure for rows that left without noise, and counts them', () => {
    const ledger = ledgerOf(release({ noise: 0 }), release({ clip: null, noise: 0 }), release())
    expect(ledger.total).toEqual({ muSquared: 32 * ROW, bareRows: 64 })
    expect(ledger.purposes[0]!.worst).toEqual({ muSquared: 10 * ROW, bareRows: 20 })
  })

  it('is the same after it was written and read', () => {
    const ledger = ledgerOf(release(), release({ epoch: 1, work: 'other' }), release({ purpose: 'generate' }))
    ledger.addUnreadable(2)
    const copy = new Ledger(HIDDEN, structuredClone(ledger.state))
    expect(copy.state).toEqual(ledger.state)
    const more = release({ epoch: 1 })
    ledger.add(more)
    copy.add(more)
    expect(copy.purposes).toEqual(ledger.purposes)
  })
})
