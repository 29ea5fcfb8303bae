/**
 * Gaussian differential privacy (Dong, Roth and Su, 2019). A release with Gaussian noise of standard deviation sigma, whose mean moves by
 * at most D where one unit of the data is replaced by another, is mu-GDP with mu = D / sigma. Releases compose: their mu² add up.
 */

/**
 * Returns mu² of one released row for the row: replacing it moves it by at most two clips, and the noise on each of `hidden` coordinates is
 * `noise · clip / sqrt(hidden)`. The mu² of several rows, of one text or of several releases, add up. Infinity without noise.
 */
export function muSquaredOfRow (noise: number, hidden: number): number {
  return noise > 0 ? 4 * hidden / noise ** 2 : Infinity
}

/**
 * Returns the natural logarithm of delta(epsilon) of a mu-GDP release: Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) (Balle
 * and Wang, 2018, theorem 8). With the Mills ratio M(t) = (1 - Phi(t)) / phi(t) and t = epsilon/mu ∓ mu/2 it is phi(t1) (M(t1) - M(t2)),
 * which neither overflows nor cancels where the two terms are large.
 */
export function logDelta (mu: number, epsilon: number): number {
  const [near, far] = [epsilon / mu - mu / 2, epsilon / mu + mu / 2]
  // Below zero the Mills ratio grows without bound: 1 - phi (M(-t1) + M(t2)) is the same.
  if (near < 0) return Math.log1p(-density(near) * (millsRatio(-near) + millsRatio(far)))
  return -near * near / 2 - LOG_SQRT_TWO_PI + Math.log(millsRatio(near) - millsRatio(far))
}

/** Returns the least epsilon for which a mu-GDP release is (epsilon, delta)-differentially private. */
export function epsilonOf (mu: number, delta: number): number {
  if (!(delta > 0 && delta < 1)) throw new RangeError(`delta is ${delta}: expected a number between 0 and 1`)
  if (!(mu >= 0)) throw new RangeError(`mu is ${mu}: expected a number of at least 0`)
  if (mu === Infinity) return Infinity
  const wanted = Math.log(delta)
  if (mu === 0 || logDelta(mu, 0) <= wanted) return 0
  let [low, high] = [0, 1]
  while (logDelta(mu, high) > wanted) [low, high] = [high, 2 * high]
  for (let i = 0; i < BISECTIONS; i++) {
    const middle = (low + high) / 2
    if (logDelta(mu, middle) > wanted) low = middle
    else high = middle
  }
  // The upper end: rounding makes the figure worse, not better.
  return high
}

/** Halvings of an interval after which a float64 has no more digits. */
const BISECTIONS = 100

const LOG_SQRT_TWO_PI = Math.log(2 * Math.PI) / 2

/** From here on the continued fraction has all digits of a float64 within its steps; below it the series has. */
const CONTINUED_FRACTION_FROM = 3

const CONTINUED_FRACTION_STEPS = 120

function density (t: number): number {
  return Math.exp(-t * t / 2 - LOG_SQRT_TWO_PI)
}

/** Computes (1 - Phi(t)) / phi(t) for t of at least 0. */
function millsRatio (t: number): number {
  if (t >= CONTINUED_FRACTION_FROM) {
    // Laplace's continued fraction 1 / (t + 1 / (t + 2 / (t + 3 / ...))), from its far end.
    let tail = 0
    for (let k = CONTINUED_FRACTION_STEPS; k > 0; k--) tail = k / (t + tail)
    return 1 / (t + tail)
  }
  // Phi(t) - 1/2 = phi(t) (t + t³/3 + t⁵/15 + ...).
  let [term, sum] = [t, t]
  for (let k = 3; term > sum * Number.EPSILON / 4; k += 2) sum += term *= t * t / k
  return 0.5 / density(t) - sum
}
