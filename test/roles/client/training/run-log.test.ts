import { appendFile, readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { readRuns, RunLog, type RoundEntry } from '../../../../src/roles/client/training/run-log.ts'
import { temporaryDirectory } from '../../../node/fixture.ts'

const round: Omit<RoundEntry, 'type' | 'time'> = {
  round: 0, done: 1, rounds: 2, loss: 4.5, learningRate: 0.01, tokens: 10, tokensPerSecond: 5, inputTokens: 20, inputTokensPerSecond: 10,
  sentBytes: 100, receivedBytes: 50, clippedFraction: 0, leftOut: false, members: 1
}
const about = { key: 'k', data: ['notes.jsonl'] }

describe('the log of runs', () => {
  it('has a directory a run, for its owner alone, and goes on with the run of the same work', async () => {
    const runs = join(await temporaryDirectory(), 'runs')
    const first = await RunLog.open(runs, { ...about, resumed: false })
    await first.round(round)
    const resumed = await RunLog.open(runs, { ...about, resumed: true })
    await resumed.evaluation({ done: 1, loss: 4, tokens: 10, best: true })
    // Runs stand in the order of their beginnings, which are a millisecond apart at least.
    await new Promise((resolve) => setTimeout(resolve, 5))
    await RunLog.open(runs, { ...about, key: 'other', resumed: true })
    const found = await readRuns(runs)
    expect(found.map(({ key, entries }) => [key, entries.map(({ type }) => type)])).toEqual([['k', ['round', 'evaluation']], ['other', []]])
    expect(resumed.before).toMatchObject([{ type: 'round', loss: 4.5, learningRate: 0.01 }])
    expect((await stat(first.directory)).mode & 0o077).toBe(0)
    for (const name of await readdir(first.directory)) expect((await stat(join(first.directory, name))).mode & 0o077).toBe(0)
  })

  it('leaves out what is no run, and lines that are not whole', async () => {
    const runs = await temporaryDirectory()
    const log = await RunLog.open(runs, { ...about, resumed: false })
    await log.round(round)
    await appendFile(join(log.directory, 'metrics.jsonl'), '{"type":"round","ro')
    await writeFile(join(runs, 'notes.txt'), 'x')
    expect((await readRuns(runs)).map(({ entries }) => entries.length)).toEqual([1])
    expect(await readRuns(join(runs, 'none'))).toEqual([])
  })
})
