import { describe, expect, it } from 'vitest'
import type { Batches } from '../../../../src/model/text/batches.ts'
import type { ProgressMeta, Run } from '../../../../src/roles/client/training/progress.ts'
import { RunPlace } from '../../../../src/roles/client/training/run-place.ts'

/** A place at the beginning of a run, over data in which each batch has the next number, and what it wrote and told. */
function placeAt (round: number, run: Partial<Run> = {}, averageEvery?: number) {
  const written: ProgressMeta[] = []
  const notices: string[] = []
  const batches = { at: ({ epoch, index }) => ({ next: { epoch, index: index + 1 } }) } as Pick<Batches, 'at'>
  const place = new RunPlace({ state: { commit: async (meta) => { written.push(meta) } }, batches }, {
    progress: {
      federation: 'ab',
      round,
      partition: { inputBlocks: 1, outputBlocks: 1 },
      run: { key: 'key', rounds: 9, done: 0, cursor: { epoch: 0, index: 0 }, ...run }
    },
    resumed: false,
    releasedRound: undefined,
    averageEvery,
    passes: 1,
    notify: (notice) => { notices.push(notice) }
  })
  return { place, written, notices, batch: () => place.meta.run.cursor.index }
}

describe('a place in a run with secure sums', () => {
  it('is at the same batch where its round begins anew before shares were revealed', async () => {
    const { place, batch, notices } = placeAt(4)
    await place.leaveSummed()
    expect([batch(), notices]).toEqual([0, []])
  })

  it('has on disk that shares are revealed, and leaves the batch out where the round begins anew, also after a restart', async () => {
    const { place, written, batch, notices } = placeAt(4)
    await place.noteReveal()
    expect(written.at(-1)?.run?.summedRound).toBe(4)
    await place.leaveSummed()
    expect([batch(), notices.length]).toEqual([1, 1])
    const again = placeAt(4, written[0]!.run)
    await again.place.leaveSummed()
    expect([again.batch(), again.place.meta.run.summedRound]).toEqual([1, undefined])
  })

  it('goes on from a sum that counted as ever, and leaves the batch of one that did not count out', async () => {
    const counted = placeAt(4)
    await counted.place.noteReveal()
    await counted.place.goOn(5, true)
    expect([counted.batch(), counted.place.meta.run, counted.notices]).toEqual([1, expect.not.objectContaining({ summedRound: 4 }), []])
    const lost = placeAt(4)
    await lost.place.noteReveal()
    await lost.place.goOn(5, false)
    expect([lost.batch(), lost.place.meta.run.done, lost.notices.length]).toEqual([1, 0, 1])
  })

  it('counts the tokens of rounds that counted since the last average', async () => {
    const { place } = placeAt(3, {}, 3)
    const tokens: number[] = []
    const round = async (next: number, pending: number, counted: boolean): Promise<void> => {
      place.pend(pending)
      await place.goOn(next, counted)
      tokens.push(place.meta.unaveragedTokens ?? 0)
    }
    await round(4, 10, true)
    await round(5, 20, false)
    await round(6, 30, true)
    await round(7, 40, true)
    // Away while another average was made.
    await round(10, 50, true)
    expect(tokens).toEqual([10, 10, 0, 40, 0])
    expect(place.meta.pendingTokens).toBe(0)
  })
})
