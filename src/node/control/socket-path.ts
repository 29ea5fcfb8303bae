import { createHash } from 'node:crypto'
import { constants, existsSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import type { Home } from '../home/home.ts'

/** The system's structure for such addresses holds 108 bytes on Linux and 104 on macOS, with the byte that ends it. */
const MAX_SOCKET_PATH_BYTES = 100

/** Where Linux shows a process its own open files. */
const OPEN_FILES = '/proc/self/fd'

/** Where a daemon listens, as the system takes it. */
export interface ControlAddress {
  readonly path: string
  /** Ends what the path needs. The path is gone then: a socket that was bound to it has to be closed before. */
  readonly release: () => Promise<void>
}

/**
 * The directory of a home's control socket. It follows from the home alone, whatever the environment of who asks. It is in the home, or,
 * where that path is too long for a socket and the system has no shorter one, in /tmp.
 */
export function controlDirectory (home: Home): string {
  if (isShort(home.control) || existsSync(OPEN_FILES)) return dirname(home.control)
  const digest = createHash('sha256').update(home.root).digest('hex').slice(0, 32)
  return join('/tmp', `midspan-${process.getuid?.() ?? 0}-${digest}`)
}

/** Opens the address of a home's control socket, whose directory is there. The caller releases it. */
export async function openControlAddress (home: Home): Promise<ControlAddress> {
  const path = join(controlDirectory(home), basename(home.control))
  if (isShort(path)) return { path, release: async () => {} }
  // The address of an open directory is short, however long the directory's own path is.
  const directory = await open(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY)
  return { path: `${OPEN_FILES}/${directory.fd}/${basename(path)}`, release: async () => { await directory.close() } }
}

function isShort (path: string): boolean {
  return Buffer.byteLength(path) <= MAX_SOCKET_PATH_BYTES
}
