import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Batches, IGNORED_TARGET, type Batch, type BatchOptions } from '../../../src/model/text/batches.ts'
import type { Example } from '../../../src/model/text/dataset.ts'

const example = (
  ids: readonly number[],
  withheld: readonly number[],
  lossMask: readonly number[] = ids.map((_, i) => i > 0 ? 1 : 0)
): Example => ({
  ids: Int32Array.from(ids), lossMask: Uint8Array.from(lossMask), withheld: Uint8Array.from(withheld)
})

const examplesOf = fc.array(
  fc.array(fc.tuple(fc.integer({ min: 3, max: 30 }), fc.boolean(), fc.boolean()), { minLength: 2, maxLength: 12 }).map((tokens) =>
    example(
      tokens.map(([id]) => id),
      tokens.map(([, withheld]) => withheld ? 1 : 0),
      tokens.map(([, , counted], i) => i > 0 && counted ? 1 : 0)
    )
  ),
  { minLength: 1, maxLength: 6 }
)

const options = fc.record({
  seed: fc.constantFrom('a', 'b'),
  sequences: fc.integer({ min: 1, max: 3 }),
  mode: fc.constantFrom('packed' as const, 'padded' as const),
  windowLength: fc.integer({ min: 1, max: 5 })
})

function all (examples: readonly Example[], settings: BatchOptions): Batch[] {
  const batches = new Batches(examples, settings)
  return Array.from({ length: batches.count(0) }, (_, index) => batches.at({ epoch: 0, index }).batch)
}

const sent = ({ own: _, ...batch }: Batch): Omit<Batch, 'own'> => batch

/** A text from which the withheld tokens are gone. */
function without ({ ids, lossMask, withheld = new Uint8Array(ids.length) }: Example): Example {
  const kept = [...ids.keys()].filter((i) => withheld[i] === 0)
  return { ids: Int32Array.from(kept, (i) => ids[i]!), lossMask: Uint8Array.from(kept, (i, at) => at === 0 ? 0 : lossMask[i]!) }
}

const canLearn = (examples: readonly Example[]): boolean => examples.map(without).some(({ lossMask }) => lossMask.includes(1, 1))

describe('batches of texts with withheld words', () => {
  it('send what there would be to send if the words were not in the texts', () => {
    fc.assert(fc.property(examplesOf, options, (examples, settings) => {
      fc.pre(canLearn(examples))
      expect(all(examples, settings).map(sent)).toEqual(all(examples.map(without), settings))
    }))
  })

  it('send the same whatever the withheld words are, and however long', () => {
    fc.assert(fc.property(examplesOf, options, fc.array(fc.integer({ min: 3, max: 30 }), { maxLength: 3 }), (examples, settings, other) => {
      fc.pre(canLearn(examples))
      // Each withheld token becomes other ones, or none where another one is withheld beside it.
      const changed = examples.map(({ ids, lossMask, withheld }) => {
        const tokens = [...ids].flatMap((id, i) => {
          if (withheld![i] === 0) return [{ id, mask: lossMask[i]!, mark: 0 }]
          return [7, ...other].map((id, piece) => ({ id, mask: i > 0 || piece > 0 ? 1 : 0, mark: 1 }))
        })
        return example(tokens.map(({ id }) => id), tokens.map(({ mark }) => mark), tokens.map(({ mask }) => mask))
      })
      expect(all(changed, settings).map(sent)).toEqual(all(examples, settings).map(sent))
    }))
  })

  it('have every token in the client\'s own stream, in order, with the rows that are sent among them', () => {
    fc.assert(fc.property(examplesOf, options, (examples, settings) => {
      fc.pre(canLearn(examples))
      for (const { ids, targets, own, tokens } of all(examples, settings)) {
        if (own === undefined) continue
        const flat = own.ids.flat()
        expect(own.sentRows.length).toBe(flat.length)
        expect(flat.filter((_, i) => own.isSent[i] === 1)).toEqual(ids.flat())
        // Rows only grow, and each token that is sent is the next one.
        let row = -1
        own.ids.forEach((sequence, s) => {
          const start = own.ids.slice(0, s).flat().length
          const first = row
          for (let i = start; i < start + sequence.length; i++) {
            if (own.isSent[i] === 1) row++
            expect(own.sentRows[i]).toBe(row === first ? -1 : row)
          }
        })
        expect(own.targets.flat().filter((target) => target !== IGNORED_TARGET).length).toBe(own.tokens)
        expect(targets.flat().filter((target) => target !== IGNORED_TARGET).length).toBe(tokens)
      }
    }))
  })

  it('are as ever where nothing is withheld', () => {
    const quiet = example([4, 5, 6, 7], [0, 0, 0, 0])
    const { withheld: _, ...plain } = quiet
    for (const mode of ['packed', 'padded'] as const) {
      const settings = { seed: '', sequences: 2, mode, windowLength: 2 }
      expect(all([quiet, quiet], settings)).toEqual(all([plain, plain], settings))
    }
  })

  it('keep what is withheld as a whole where they are measured, and leave it out where they are learnt', () => {
    const [hidden, shown] = [example([4, 5, 6], [1, 1, 1]), example([7, 8, 9], [0, 0, 0])]
    const settings = { seed: '', sequences: 4, mode: 'padded' as const }
    expect(all([hidden, shown], settings).map(({ ids, own }) => [ids, own])).toEqual([[[[7, 8]], undefined]])
    const [{ ids, own }] = all([hidden, shown], { ...settings, keepsUnsent: true }) as [Batch]
    expect(ids).toEqual([[7, 8]])
    expect(own!.ids.toSorted((a, b) => a[0]! - b[0]!)).toEqual([[4, 5], [7, 8]])
    expect([...own!.sentRows].toSorted((a, b) => a - b)).toEqual([-1, -1, 0, 1])
    expect(all([hidden], { ...settings, keepsUnsent: true })).toMatchObject([{ ids: [], tokens: 0, own: { ids: [[4, 5]], tokens: 2 } }])
    expect(() => all([hidden], settings)).toThrow('there is nothing to learn')
  })

  it('have no more tokens in the own stream than the blocks of a client take', () => {
    const [batch] = all([example([4, 5, 6, 7, 8, 9], [0, 1, 1, 1, 0, 0])], { seed: '', sequences: 1, mode: 'padded', ownLength: 3 })
    expect(batch).toMatchObject({ ids: [[4, 8]], targets: [[8, 9]], own: { ids: [[4, 5, 6]], targets: [[5, 6, 7]], tokens: 3 } })
    expect([...batch!.own!.sentRows]).toEqual([0, 0, 0])
  })

  it('have the first of their sequences where only some are wanted', () => {
    const batches = new Batches([example([4, 5, 6], [0, 1, 0]), example([7, 8, 9], [0, 1, 0])], { seed: '', sequences: 2, mode: 'padded' })
    const { batch: { own: whole } } = batches.at({ epoch: 0, index: 0 })
    const { batch } = batches.at({ epoch: 0, index: 0 }, 1)
    expect(batch.own!.ids).toEqual(whole!.ids.slice(0, 1))
    expect(batch.lengths).toEqual([1])
  })
})
