import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Batches, IGNORED_TARGET, type Batch, type BatchOptions, type Cursor } from '../../../src/model/text/batches.ts'
import type { Example } from '../../../src/model/text/dataset.ts'

const example = (ids: number[], mask = '0'.padEnd(ids.length, '1')): Example => ({
  ids: Int32Array.from(ids),
  lossMask: Uint8Array.from(mask, Number)
})

/** Examples of all lengths, each token with a number of its own. */
const examplesOf = (lengths: number[]): Example[] => {
  let next = 0
  return lengths.map((length) => example(Array.from({ length }, () => next++)))
}

function epochOf (batches: Batches, epoch: number): Batch[] {
  const found: Batch[] = []
  for (let cursor: Cursor = { epoch, index: 0 }; cursor.epoch === epoch;) {
    const { batch, next } = batches.at(cursor)
    found.push(batch)
    cursor = next
  }
  return found
}

const lengths = fc.array(fc.integer({ min: 2, max: 12 }), { minLength: 1, maxLength: 20 })
const options = fc.record({
  seed: fc.string(),
  sequences: fc.integer({ min: 1, max: 5 }),
  mode: fc.constantFrom('packed' as const, 'padded' as const),
  windowLength: fc.integer({ min: 1, max: 9 })
})

describe('batches', () => {
  it('pair each token with the one after it', () => {
    const { batch } = new Batches([example([5, 6, 7, 8], '0011')], { seed: '', sequences: 1, mode: 'padded' }).at({ epoch: 0, index: 0 })
    expect(batch).toEqual({ ids: [[5, 6, 7]], targets: [[IGNORED_TARGET, 7, 8]], lengths: [3], tokens: 2 })
  })

  it('pack examples end to end, not counting what begins the next one', () => {
    const same = [example([1, 5, 2]), example([1, 5, 2])]
    const batches = new Batches(same, { seed: 's', sequences: 8, mode: 'packed', windowLength: 4 })
    expect(batches.at({ epoch: 0, index: 0 }).batch).toEqual({
      ids: [[1, 5, 2, 1], [5]],
      targets: [[5, 2, IGNORED_TARGET, 5], [2]],
      lengths: [4, 1],
      tokens: 4
    })
  })

  it('leave out sequences in which nothing counts', () => {
    const quiet = example([1, 2, 3], '000')
    expect(epochOf(new Batches([quiet, example([4, 5])], { seed: '', sequences: 9, mode: 'padded' }), 0)).toMatchObject([{ ids: [[4]] }])
    expect(epochOf(new Batches([quiet, quiet, quiet, example([4, 5])], { seed: '', sequences: 9, mode: 'packed', windowLength: 1 }), 0))
      .toMatchObject([{ ids: [[4]] }])
  })

  it('count every counted token once an epoch', () => {
    fc.assert(fc.property(lengths, options, fc.nat(3), (sizes, settings, epoch) => {
      const examples = examplesOf(sizes)
      const found = epochOf(new Batches(examples, settings), epoch)
      const targets = found.flatMap((batch) => batch.targets.flat()).filter((id) => id !== IGNORED_TARGET)
      expect(targets.sort((a, b) => a - b)).toEqual(examples.flatMap(({ ids }) => [...ids.slice(1)]))
      expect(found.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(targets.length)
      for (const batch of found) expect(batch.lengths).toEqual(batch.ids.map(({ length }) => length))
    }))
  })

  it('resume exactly from a cursor that went through JSON', () => {
    fc.assert(fc.property(lengths, options, fc.nat(12), (sizes, settings, steps) => {
      const one = new Batches(examplesOf(sizes), settings)
      let cursor: Cursor = { epoch: 0, index: 0 }
      for (let i = 0; i < steps; i++) cursor = one.at(cursor).next
      const restored = JSON.parse(JSON.stringify(cursor)) as Cursor
      expect(new Batches(examplesOf(sizes), settings).at(restored)).toEqual(one.at(cursor))
    }))
  })

  it('come in another order each epoch and for each seed', () => {
    const examples = examplesOf(Array<number>(50).fill(3))
    const order = (seed: string, epoch: number): string =>
      JSON.stringify(epochOf(new Batches(examples, { seed, sequences: 4, mode: 'padded' }), epoch))
    expect(new Set([order('a', 0), order('a', 1), order('b', 0)]).size).toBe(3)
    expect(order('a', 1)).toBe(order('a', 1))
  })

  it('say how many positions of an epoch one example can change', () => {
    fc.assert(fc.property(lengths, options, fc.nat(), (sizes, settings, which) => {
      const examples = examplesOf(sizes)
      const replaced = examples.map((example, i) =>
        i === which % examples.length ? { ...example, ids: example.ids.map((id) => id + 1000) } : example)
      const [before, after] = [new Batches(examples, settings), new Batches(replaced, settings)]
      const others = epochOf(after, 0)
      const all = epochOf(before, 0)
      const changed = all.flatMap(({ ids, targets, lengths: rows }, i) =>
        rows.filter((_, k) => String([ids[k], targets[k]]) !== String([others[i]!.ids[k], others[i]!.targets[k]])))
      const most = Math.max(...all.map((batch) => before.changedByOne(batch)))
      expect(changed.reduce((sum, length) => sum + length, 0)).toBeLessThanOrEqual(most)
    }))
  })

  it('number as many as they say', () => {
    const batches = new Batches(examplesOf(Array<number>(10).fill(3)), { seed: '', sequences: 4, mode: 'padded' })
    expect([batches.count(0), epochOf(batches, 0).length]).toEqual([3, 3])
    expect(() => batches.at({ epoch: 0, index: 3 })).toThrow(RangeError)
    expect(() => batches.at({ epoch: -1, index: 0 })).toThrow(RangeError)
  })

  it.each<[string, Example[], Partial<BatchOptions>]>([
    ['no examples', [], {}], ['nothing that counts', [example([1, 2], '00')], {}],
    ['no sequences', [example([1, 2])], { sequences: 0 }], ['no window length', [example([1, 2])], { mode: 'packed' }]
  ])('are refused with %s', (_, examples, patch) => {
    expect(() => new Batches(examples, { seed: '', sequences: 1, mode: 'padded', ...patch })).toThrow(
      expect.objectContaining({ code: 'E_DATASET' }) as Error
    )
  })
})
