import { createHash, createHmac, randomBytes } from 'node:crypto'
import { chmod } from 'node:fs/promises'
import { MidspanError } from '../../errors.ts'
import { replaceFile } from '../../model/checkpoint/atomic.ts'
import { readSmallFile } from '../../model/checkpoint/small-file.ts'
import type { Protection } from '../../model/privacy/boundary.ts'
import { bytesOf, type Tensor } from '../../tensor.ts'

const SECRET_BYTES = 32

/** Separates these keys from any other use of the secret. */
const DOMAIN = 'midspan/noise/1'

/** Thrown when the secret in a client's home cannot be used. */
export class ReleaseSecretError extends MidspanError {
  constructor (path: string, bytes: number) {
    super('E_STATE', `${path} has ${bytes} bytes, and the secret of this client's noise ${SECRET_BYTES}`, {
      next: 'restore it from a copy, or remove it to have a new one made'
    })
  }
}

/** Whether rows leave as hidden states on the way up, or as gradients on the way back. */
export type Direction = 'hidden' | 'gradient'

/** What a release is noised for: its key follows from all of it. */
export interface NoiseContext {
  readonly direction: Direction
  readonly protection: Protection
  /** The rows [rows, hidden] before clip and noise. */
  readonly clean: Tensor
}

/**
 * The secret from which a client derives the noise of its training, so that the same rows leave with the same noise whenever they leave:
 * after a reconnect, after a restart, in a round that begins again.
 *
 * A key is HMAC-SHA-256, under the secret, of the federation, the direction, the protection and the SHA-256 of the rows before the noise.
 * HMAC is a pseudorandom function, so that keys of different rows are independent for everybody without the secret. Rows that differ in
 * one bit, or leave under another scale, share no noise, and the difference of two releases never shows the rows. Equal rows leave as equal
 * bytes, which tells that they are equal and nothing else. The round is not part of the key: a server that lets rounds pass without this
 * client's work gets the same bytes in each of them as long as the client's blocks stay as they are.
 */
export class ReleaseSecret {
  readonly #secret: Uint8Array
  readonly #federation: Uint8Array

  /** Takes 32 secret bytes, and the SHA-256 of the charter. */
  constructor (secret: Uint8Array, federation: Uint8Array) {
    this.#secret = secret
    this.#federation = federation
  }

  /** Reads the secret in this file, which is made when it is absent, for its owner alone. Throws ReleaseSecretError. */
  static async open (path: string, federation: Uint8Array): Promise<ReleaseSecret> {
    const found = await readSmallFile(path)
    if (found !== undefined && found.byteLength !== SECRET_BYTES) throw new ReleaseSecretError(path, found.byteLength)
    if (found !== undefined) await chmod(path, 0o600).catch(() => {}) // a copy that was put back
    const secret = found ?? randomBytes(SECRET_BYTES)
    if (found === undefined) await replaceFile(path, async (handle) => { await handle.writeFile(secret) }, { mode: 0o600 })
    return new ReleaseSecret(secret, federation)
  }

  /** Returns the 32 bytes of the AES-256 key whose keystream is the noise of a release. */
  noiseKey ({ direction, protection: { clip, noise }, clean }: NoiseContext): Uint8Array {
    const described = JSON.stringify({ domain: DOMAIN, direction, clip, noise, shape: clean.shape, dtype: clean.dtype })
    return createHmac('sha256', this.#secret)
      .update(this.#federation)
      .update(createHash('sha256').update(described).digest())
      .update(createHash('sha256').update(bytesOf(clean)).digest())
      .digest()
  }
}
