/**
 * Kills processes of federations over several servers at random for as long as it is told, and compares what they come to with a run
 * left alone: `npm run soak:servers -- [minutes] [seed]`. Servers in series compute the same bits; where replicas share the clients, who
 * computes what depends on their speed, and sums differ in rounding. Prints a line a run; exits with 1 at the first difference, and keeps
 * that run's homes.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { SeededRandom } from '../../src/model/random.ts'
import { relativeError } from '../helpers/golden.ts'
import { Homes, names, type Outcome, type TrainedOptions } from '../processes/supervised.ts'

const ROUNDS = 60
const CLIENTS = [{}, { inputBlocks: 2 }, { outputBlocks: 2 }]
const MOST_KILLS = 12
const MOST_DELAY_MS = 500
const MOST_DIFFERENCE = 1e-4

const layouts: ReadonlyArray<NonNullable<TrainedOptions['spans']>> = [
  { founder: { first: 1, end: 2 }, workers: [{ first: 2, end: 4 }] },
  { founder: { first: 1, end: 2 }, workers: [{ first: 1, end: 2 }, { first: 2, end: 4 }, { first: 2, end: 4 }] }
]

function floats (hex: string): Float32Array {
  const bytes = Uint8Array.from(Buffer.from(hex, 'hex'))
  return new Float32Array(bytes.buffer)
}

/** The greatest relative difference of any adapter tensor. */
function difference (a: Outcome, b: Outcome): number {
  return Math.max(...a.adapters.flatMap((tensors, client) =>
    Object.entries(tensors).map(([name, hex]) => relativeError(floats(hex), floats(b.adapters[client]?.[name] ?? '')))
  ))
}

const [minutes = 10, seed = Date.now()] = process.argv.slice(2).map(Number)
const random = new SeededRandom(`soak-servers/${seed}`)
const endMs = Date.now() + minutes * 60_000
console.log(`seed ${seed}`)
let total = 0

for (let run = 0; Date.now() < endMs; run++) {
  const spans = layouts[run % layouts.length]!
  const homes = await Homes.create({ clients: CLIENTS, rounds: ROUNDS, spans })
  const victims = names({ clients: CLIENTS, spans })
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
  total += kills.length
  const apart = difference(disturbed, alone)
  const sound = spans.workers.length === 1 ? apart === 0 : apart <= MOST_DIFFERENCE
  console.log(`${sound ? 'sound    ' : 'DIFFERENT'} ${apart.toExponential(1)} ${1 + spans.workers.length} servers, ${total} kills in all: ${kills.join(' ')}`)
  if (!sound) {
    console.log(`see ${homes.root}`)
    process.exit(1)
  }
  await homes.remove()
}
