import type { NoiseLoss, NoiseLosses } from './calibration.ts'

/** What a noise costs on the sample that a federation was calibrated on, in nats for each token, before any training. */
export interface NoiseCost {
  readonly noise: number
  readonly lossWithout: number
  readonly lossWith: number
  /** useful: hardly worse than without noise; worse: noticeably; useless: about what a model says that sees nothing. */
  readonly verdict: 'useful' | 'worse' | 'useless'
  /** The greatest measured noise that leaves the model useful; 0 where none does. */
  readonly usefulNoise: number
}

/** A loss greater by this much is hardly noticed: perplexity rises by a tenth. */
const USEFUL_NATS = 0.1

/** A loss greater by this much, a perplexity nearly three times as high, makes text that nobody can use. */
const USELESS_NATS = 1

/**
 * Looks up what a client's noise costs, from the losses measured at the nearest cut; between two measured noises the loss is interpolated,
 * and beyond the last one it is that of the last. Returns undefined where nothing was measured.
 */
export function noiseCost (losses: NoiseLosses | undefined, inputBlocks: number, noise: number): NoiseCost | undefined {
  const cuts = Object.keys(losses ?? {}).map(Number).sort((a, b) => Math.abs(a - inputBlocks) - Math.abs(b - inputBlocks) || a - b)
  const table = cuts.length === 0 ? [] : losses![cuts[0]!]!
  const [without] = table
  if (without === undefined || without.noise !== 0) return undefined
  const lossWith = interpolated(table, noise)
  const cost = lossWith - without.loss
  return {
    noise,
    lossWithout: without.loss,
    lossWith,
    verdict: cost <= USEFUL_NATS ? 'useful' : cost < USELESS_NATS ? 'worse' : 'useless',
    usefulNoise: table.findLast(({ loss }) => loss - without.loss <= USEFUL_NATS)!.noise
  }
}

/** Writes a cost as a sentence for people. */
export function describeNoiseCost ({ noise, lossWithout, lossWith, verdict, usefulNoise }: NoiseCost): string {
  if (noise === 0)
    return `Without noise the sample text has a loss of ${lossWithout.toFixed(2)}; ${
      usefulNoise === 0 ? 'no noise that was tried leaves the model useful' : `noise of ${usefulNoise} and less leaves the model useful`
    }`
  const losses = `Noise ${noise} on hidden states: loss ${lossWithout.toFixed(2)} → ${lossWith.toFixed(2)} on the sample text`
  const advice = usefulNoise === 0 ? 'no noise that was tried leaves it useful' : `${usefulNoise} and less leave it useful`
  switch (verdict) {
    case 'useful': return `${losses}: the model stays useful`
    case 'worse': return `${losses}: the model will be noticeably worse; ${advice}`
    case 'useless': return `${losses}: the model will not be useful; ${advice}`
  }
}

function interpolated (table: readonly NoiseLoss[], noise: number): number {
  const after = table.findIndex((entry) => entry.noise >= noise)
  if (after === -1) return table.at(-1)!.loss
  const [high, low] = [table[after]!, table[Math.max(0, after - 1)]!]
  if (high.noise === low.noise) return high.loss
  return low.loss + (high.loss - low.loss) * (noise - low.noise) / (high.noise - low.noise)
}
