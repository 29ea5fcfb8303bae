import { lstat, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { MidspanError } from '../../errors.ts'
import type { Home } from './home.ts'

/** Thrown where other users of the machine could change what this peer is or does. */
export class OpenHomeError extends MidspanError {
  constructor (message: string, next: string) {
    super('E_HOME_OPEN', message, { next })
  }
}

/** The permission of everybody to write (chmod(2)). */
const WRITABLE_BY_ALL = 0o002

/**
 * Refuses a home that every user may write to, one with such a file, and one whose log or lock is a link that would lead writing elsewhere,
 * or a pipe that would keep whoever writes to it.
 * Throws OpenHomeError. Systems without such modes report none.
 */
export async function checkHome (home: Home): Promise<void> {
  if (await isOpen(home.root))
    throw new OpenHomeError(
      `every user of this machine can write to ${home.root}, and so change what this peer is`,
      `take that away with chmod 700 ${home.root}, or choose a home on a file system that keeps modes`
    )
  for (const path of [home.state, home.model, home.runs, dirname(home.control)]) {
    if (await isOpen(path))
      throw new OpenHomeError(`every user of this machine can write to ${path}`, `check what is in it, then chmod 700 ${path}`)
  }
  const written = [
    home.config, home.identity, home.charter, home.admission, home.servers, home.certificate, home.lead, home.mandates, home.adapter,
    home.httpToken, home.lock, home.log
  ]
  for (const path of written) {
    if (await isOpen(path))
      throw new OpenHomeError(`every user of this machine can write to ${path}`, `check what it says, then chmod 600 ${path}`)
  }
  for (const [name, path] of [['log', home.log], ['lock', home.lock]] as const) {
    const found = await lstat(path).catch(() => undefined)
    if (found?.isSymbolicLink() === true)
      throw new OpenHomeError(`the ${name} ${path} is a symbolic link, which would lead what is written elsewhere`, `remove it: rm ${path}`)
    if (found !== undefined && !found.isFile()) throw new OpenHomeError(`the ${name} ${path} is not a file`, 'move it away')
  }
}

async function isOpen (path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return found !== undefined && process.platform !== 'win32' && (found.mode & WRITABLE_BY_ALL) !== 0
}
