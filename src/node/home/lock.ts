import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { tryLock, unlock } from 'fs-native-extensions'
import { MidspanError } from '../../errors.ts'
import { createHome, HomeInUseError, readIfPresent, type Home } from './home.ts'

/** Thrown when another process works in this home. */
export class HomeLockedError extends MidspanError {
  static readonly code = 'E_HOME_LOCKED'
  /** The holder's process id as its own container counts processes, or 0 where the holder has not written it yet. */
  readonly pid: number

  constructor (root: string, { pid, host }: Holder) {
    const where = host === hostname() ? `the process ${pid}` : `a process on ${host} (${pid} there)`
    super(HomeLockedError.code, `${root} is in use by ${where}`, { next: 'stop it first, or choose another home' })
    this.pid = pid
  }
}

export interface HomeLock {
  /** Gives the home back. Synchronous, so that it can run while the process exits. */
  release (): void
}

/** Who holds a home, for the error that another process gets. It decides nothing. */
interface Holder {
  readonly pid: number
  readonly host: string
}

/**
 * Makes a home and keeps it for this process while `run` works in it. `run` gets the bytes of the charter that the home has already, if
 * any. Throws HomeLockedError.
 */
export async function withHome<T> (home: Home, run: (charter: Uint8Array | undefined) => Promise<T>): Promise<T> {
  await createHome(home)
  const lock = await lockHome(home)
  try {
    return await run(await readIfPresent(home.charter))
  } finally {
    lock.release()
  }
}

/** Keeps a home that belongs to no federation yet, as `withHome` does. Throws HomeLockedError and HomeInUseError. */
export async function withNewHome<T> (home: Home, run: () => Promise<T>): Promise<T> {
  return await withHome(home, async (charter) => {
    if (charter !== undefined) throw new HomeInUseError(home.root)
    return await run()
  })
}

/**
 * Takes the home for this process. The kernel holds the lock with the open file and gives it up when the process ends, however it ends, so
 * that processes in other containers see it too and nothing stale is left. The file itself stays. Throws HomeLockedError.
 */
export async function lockHome (home: Home): Promise<HomeLock> {
  const file = openSync(home.lock, 'a+', 0o600)
  if (!tryLock(file)) {
    closeSync(file)
    throw new HomeLockedError(home.root, await holderOf(home.lock))
  }
  ftruncateSync(file, 0)
  writeSync(file, JSON.stringify({ pid: process.pid, host: hostname() } satisfies Holder))
  let held = true
  return {
    release: () => {
      if (!held) return
      held = false
      unlock(file)
      closeSync(file)
    }
  }
}

async function holderOf (path: string): Promise<Holder> {
  try {
    const { pid, host } = JSON.parse(await readFile(path, 'utf8')) as Partial<Holder>
    if (typeof pid === 'number' && typeof host === 'string') return { pid, host }
  } catch {
    // The holder has taken the lock and not written yet who it is.
  }
  return { pid: 0, host: hostname() }
}
