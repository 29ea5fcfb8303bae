/** How the learning rate changes over rounds. */
export interface Schedule {
  readonly name: 'constant' | 'linear' | 'cosine'
  /** Rounds in which the rate rises linearly from zero. */
  readonly warmupRounds: number
  /** The round at which a falling rate reaches zero. */
  readonly totalRounds: number
}

/** Returns the learning rate of a round, counted from 0, as transformers' schedulers give it. */
export function learningRateAt (schedule: Schedule, base: number, round: number): number {
  const { name, warmupRounds, totalRounds } = schedule
  if (round < warmupRounds) return base * round / Math.max(1, warmupRounds)
  if (name === 'constant') return base
  const progress = Math.min(1, (round - warmupRounds) / Math.max(1, totalRounds - warmupRounds))
  return base * (name === 'linear' ? 1 - progress : (1 + Math.cos(Math.PI * progress)) / 2)
}
