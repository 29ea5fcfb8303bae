/**
 * Kills processes of federations of every kind at random for as long as it is told, and compares what they come to with runs left
 * alone: `npm run soak -- [minutes] [seed]`. Prints a line a run; exits with 1 at the first difference, and keeps that run's homes.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { SeededRandom } from '../../src/model/random.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { Homes, type Role } from '../processes/supervised.ts'

const ROUNDS = 60
const CLIENTS = [{}, { inputBlocks: 2 }, { outputBlocks: 2 }]
const MOST_KILLS = 12
const MOST_DELAY_MS = 500

const kinds: ReadonlyArray<Partial<CreateOptions>> = [
  {},
  { ends: { mode: 'average', every: 3 } },
  { ends: { mode: 'personal' } },
  { ends: { mode: 'average', every: 3 }, accumulate: 2 },
  { strategy: 'sequential' },
  { loraDropout: 0.1 },
  { maxGradientNorm: 0.5, schedule: 'cosine', warmupRounds: 5 },
  { maxGradientNorm: 0.05, gradientNormScope: 'global', ends: { mode: 'average', every: 3 }, accumulate: 2 }
]

const [minutes = 10, seed = Date.now()] = process.argv.slice(2).map(Number)
const random = new SeededRandom(`soak/${seed}`)
const endMs = Date.now() + minutes * 60_000
const victims: Role[] = ['server', ...CLIENTS.map((_, index) => `client-${index}` as const)]
console.log(`seed ${seed}`)

for (let run = 0; Date.now() < endMs; run++) {
  const charter = kinds[run % kinds.length]
  const homes = await Homes.create({ ...(charter === undefined ? {} : { charter }), clients: CLIENTS, rounds: ROUNDS })
  const kills: string[] = []
  const alone = await homes.runAlone()
  const disturbed = await homes.run(async (supervised) => {
    const due = Array.from({ length: 1 + random.below(MOST_KILLS) }, () => random.below(ROUNDS)).sort((a, b) => a - b)
    for (const round of due) {
      await supervised.reached(round)
      await delay(random.nextFloat() * MOST_DELAY_MS)
      const victim = victims[random.below(victims.length)] ?? 'server'
      kills.push(`${victim}@${round}`)
      await supervised.kill(victim)
    }
  })
  const equal = JSON.stringify(disturbed.adapters) === JSON.stringify(alone.adapters)
  console.log(`${equal ? 'equal    ' : 'DIFFERENT'} ${JSON.stringify(charter)} ${kills.join(' ')}`)
  if (!equal) {
    console.log(`see ${homes.root}`)
    process.exit(1)
  }
  await homes.remove()
}
