import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SeededRandom } from '../../src/model/random.ts'
import { Homes, type Outcome, type Role } from './supervised.ts'

const ROUNDS = 60
const KILLS = 6
/** Kills fall anywhere within a round or two after the one that they are due at. */
const MOST_DELAY_MS = 150

describe('a run whose processes are killed', { timeout: 240_000 }, () => {
  let homes: Homes
  let undisturbed: Outcome
  beforeAll(async () => {
    homes = await Homes.create({ clients: [{}, { inputBlocks: 2 }], rounds: ROUNDS })
    undisturbed = await homes.runAlone()
  }, 240_000)
  afterAll(async () => { await homes.remove() })

  it('ends with the same parameters, to the last bit, as one that is left alone', async () => {
    const random = new SeededRandom('kills')
    const victims: Role[] = ['server', 'client-0', 'client-1']
    const { adapters, complaints } = await homes.run(async (run) => {
      for (let kill = 0; kill < KILLS; kill++) {
        await run.reached(Math.floor((kill + 0.5) * ROUNDS / KILLS))
        await delay(random.nextFloat() * MOST_DELAY_MS)
        await run.kill(victims[kill % victims.length] ?? 'server')
      }
    })
    expect(adapters).toEqual(undisturbed.adapters)
    // A train command outlives the server's death, not its own daemon's.
    for (const complaint of complaints)
      expect(complaint).toMatch(/^midspan: (the daemon in HOME ended before its answer did|no daemon runs in HOME|the daemon is starting: [^\n]+) \([^\n]+\)$/)
  })
})
