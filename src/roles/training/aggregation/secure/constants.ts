/**
 * Contributors of one sum, at most. Each shares its secrets with all others, so that work and bytes grow with their number; a round with
 * more of them has several sums. Shares of Shamir's scheme over bytes are for 255 at most.
 */
export const MAX_CONTRIBUTORS = 128

/** Contributors of one sum, at least: of a sum of two each of them knows what the other one added. */
export const MIN_CONTRIBUTORS = 3

/** The greatest magnitude of a value. A sum of 128 of them takes 62 bits with its 40 of a fraction, and a word has 64 with the sign. */
export const MAX_VALUE = 2 ** 15

/** Bytes of an X25519 key, of a seed, and of a SHA-256. */
export const KEY_BYTES = 32

/** Bytes of an Ed25519 signature. */
export const SIGNATURE_BYTES = 64

/** Bytes of a share: one for each byte of the secret, and the place at which the polynomials were evaluated. */
export const SHARE_BYTES = KEY_BYTES + 1

const NONCE_BYTES = 12
const TAG_BYTES = 16

/** Bytes of two shares as they travel: nonce, AES-GCM's ciphertext of the same length as the shares, and its tag. */
export const BOX_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES

/** How often one round asks for the masked contributions anew, since too many contributors were lost on the way. */
export const MAX_ATTEMPTS = 3

/**
 * Returns how many of `contributors` have to be there to the end: two thirds, rounded up. A third may be lost. A server that lies about
 * who was lost needs two thirds of the answers twice for one contributor, and each contributor answers once: it fails unless a third or
 * more of the contributors help it (2t > n + c, Theorem 6.5 of Bonawitz et al. 2017).
 */
export function thresholdOf (contributors: number): number {
  return Math.ceil(2 * contributors / 3)
}
