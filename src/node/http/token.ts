import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { chmod } from 'node:fs/promises'
import { UsageError } from '../../errors.ts'
import { readIfPresent, replaceFile } from '../home/home.ts'

/** Bytes of a token: nobody guesses it. */
const TOKEN_BYTES = 32

/** A token that a person chose has at least as many characters as can be guessed by nobody. */
const MIN_TOKEN_CHARACTERS = 32

/**
 * Returns the bearer token kept at `path`, from now on its owner's alone; a new one where there is none. Throws UsageError where the file
 * holds something else, which it never shows.
 */
export async function loadOrCreateToken (path: string): Promise<string> {
  const bytes = await readIfPresent(path)
  if (bytes === undefined) {
    const token = randomBytes(TOKEN_BYTES).toString('base64url')
    await replaceFile(path, `${token}\n`)
    return token
  }
  await chmod(path, 0o600).catch(() => {}) // a copy that was put back; a file system without modes has none to set
  const token = new TextDecoder().decode(bytes).trim()
  if (!/^[\x21-\x7e]+$/.test(token) || token.length < MIN_TOKEN_CHARACTERS)
    throw new UsageError(
      `${path} does not hold a token: ${MIN_TOKEN_CHARACTERS} or more letters, digits and signs on one line`,
      'delete it, and the next start makes another one'
    )
  return token
}

/** Returns whether an Authorization header carries the token. The time that it takes says nothing of the token. */
export function carriesToken (authorization: string | undefined, token: string): boolean {
  const given = /^Bearer +(\S+)$/i.exec(authorization ?? '')?.[1]
  return given !== undefined && timingSafeEqual(digest(given), digest(token))
}

function digest (text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
