import { createHash } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Home } from '../home/home.ts'

/** The system's structure for such addresses holds 108 bytes on Linux and 104 on macOS, with the byte that ends it. */
const MAX_SOCKET_PATH_BYTES = 100

/**
 * Where the daemon of a home listens: in the home, or, where that path is too long for a socket, in a directory of its own under the
 * system's temporary one.
 */
export function controlPath (home: Home): string {
  if (Buffer.byteLength(home.control) <= MAX_SOCKET_PATH_BYTES) return home.control
  const digest = createHash('sha256').update(home.root).digest('hex').slice(0, 32)
  return join(tmpdir(), `midspan-${digest}`, 'control.sock')
}
