import { readFile } from 'node:fs/promises'

/**
 * Reads a file of text in UTF-8, with or without a byte order mark. Throws an Error that says so for other bytes: replaced by U+FFFD, words
 * of it would be others. Throws what reading files throws.
 */
export async function readUtf8 (path: string): Promise<string> {
  const bytes = await readFile(path)
  // Of UTF-16 without a mark, every other byte of a plain text is zero.
  if (!bytes.includes(0)) {
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    } catch {
      // What is not UTF-8 is told below.
    }
  }
  throw new Error('it is not UTF-8: write it as UTF-8, as iconv and editors do')
}
