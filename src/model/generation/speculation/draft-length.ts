/** The gain in tokens a second below which nothing is drafted: estimates are rough, and what is drafted is released. */
const LEAST_GAIN = 1.03

/**
 * Chooses how many of a draft's tokens to send: the number k that maximises the expected tokens of a round trip over its expected time,
 * (1 + r1 + r1 r2 + … + r1 … rk) / time(k + 1), where `rates` has for each token the probability that it is accepted if those before it
 * are. Returns 0 where no number is better than none by LEAST_GAIN. All are sent while no time is known.
 */
export function draftLength (rates: readonly number[], expectedMs: (states: number) => number | undefined): number {
  const alone = expectedMs(1)
  if (alone === undefined) return rates.length
  let [best, bestSpeed] = [0, LEAST_GAIN / alone]
  let [tokens, reached] = [1, 1]
  for (const [i, rate] of rates.entries()) {
    reached *= rate
    tokens += reached
    const speed = tokens / (expectedMs(i + 2) ?? alone)
    if (speed > bestSpeed) [best, bestSpeed] = [i + 1, speed]
  }
  return best
}
