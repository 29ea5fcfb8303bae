import { createHash } from 'node:crypto'

/**
 * A repeatable stream of random numbers, for shuffling and sampling; not for secrets or privacy noise.
 * xoshiro128** 1.1 by Blackman and Vigna (public domain, https://prng.di.unimi.it), its state the first 128 bits of the seed's SHA-256.
 */
export class SeededRandom {
  readonly #state: Uint32Array

  constructor (seed: string) {
    const digest = createHash('sha256').update(seed).digest()
    this.#state = Uint32Array.from([0, 4, 8, 12], (at) => digest.readUInt32LE(at))
  }

  /** Returns a number that is uniform in [0, 2^32). */
  nextUint32 (): number {
    const s = this.#state
    const product = Math.imul(s[1]!, 5)
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0
    const shifted = s[1]! << 9
    s[2]! ^= s[0]!
    s[3]! ^= s[1]!
    s[1]! ^= s[2]!
    s[0]! ^= s[3]!
    s[2]! ^= shifted
    s[3] = (s[3]! << 11) | (s[3]! >>> 21)
    return result
  }

  /** Returns a number that is uniform in [0, 1), in steps of 2^-53. */
  nextFloat (): number {
    return ((this.nextUint32() >>> 5) * 2 ** 26 + (this.nextUint32() >>> 6)) * 2 ** -53
  }

  /** Returns a number that is uniform among 0 … bound - 1, without bias. `bound` is at most 2^32. */
  below (bound: number): number {
    const limit = 2 ** 32 - (2 ** 32 % bound)
    for (;;) {
      const value = this.nextUint32()
      if (value < limit) return value % bound
    }
  }
}

/** Returns the numbers 0 … count - 1 in an order that follows from the seed alone (Fisher-Yates). */
export function permutation (count: number, seed: string): Uint32Array {
  const random = new SeededRandom(seed)
  const order = Uint32Array.from({ length: count }, (_, i) => i)
  for (let i = count - 1; i > 0; i--) {
    const other = random.below(i + 1)
    const held = order[i]!
    order[i] = order[other]!
    order[other] = held
  }
  return order
}
