import { createHash, randomUUID } from 'node:crypto'
import { readFileSync, unlinkSync } from 'node:fs'
import { link, readFile, rename, unlink, writeFile } from 'node:fs/promises'
import { MidspanError } from '../../errors.ts'
import { createHome, HomeInUseError, readIfPresent, type Home } from './home.ts'

/** Another process works in this home. */
export class HomeLockedError extends MidspanError {
  static readonly code = 'E_HOME_LOCKED'
  readonly pid: number

  constructor (root: string, pid: number) {
    super(HomeLockedError.code, `${root} is in use by the process ${pid}`, { next: `stop it first (kill ${pid}), or choose another home` })
    this.pid = pid
  }
}

export interface HomeLock {
  /** Gives the home back. Synchronous, so that it can run while the process exits. */
  release (): void
}

/** A path whose owner changes while one looks at it is looked at again; each try meets another owner, so a few are enough. */
const MAX_TRIES = 5

/**
 * Makes a home, and keeps it for this process while it comes to belong to a federation.
 * Throws HomeLockedError, and HomeInUseError where it belongs to one already.
 */
export async function settle<T> (home: Home, run: () => Promise<T>): Promise<T> {
  await createHome(home)
  const lock = await lockHome(home)
  try {
    if (await readIfPresent(home.charter) !== undefined) throw new HomeInUseError(home.root)
    return await run()
  } finally {
    lock.release()
  }
}

/** Takes the home for this process. Throws HomeLockedError when a living process has it. */
export async function lockHome (home: Home): Promise<HomeLock> {
  const mine = JSON.stringify({ pid: process.pid, started: startOf(process.pid) })
  const draft = `${home.lock}.${randomUUID()}`
  await writeFile(draft, mine, { mode: 0o600, flag: 'wx' })
  try {
    await claim(home.lock, draft, home.root)
  } finally {
    await unlink(draft)
  }
  return { release: () => { releaseLock(home.lock, mine) } }
}

/**
 * Puts the draft at a path that no living process owns.
 *
 * A dead owner's file is replaced only by who has claimed its succession, a path named after what the dead one wrote:
 * were it simply removed, a slower process that also saw the dead owner could remove the successor's file instead.
 */
async function claim (path: string, draft: string, root: string): Promise<void> {
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    try {
      await link(draft, path) // unlike a create, it never shows others an empty file
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const left = await textOf(path)
    if (left === undefined) continue // given back meanwhile
    const owner = ownerOf(left)
    if (owner !== undefined && isAlive(owner)) throw new HomeLockedError(root, owner.pid)
    if (await succeed(path, left, draft, root)) return
  }
  throw new HomeLockedError(root, ownerOf(await textOf(path) ?? '')?.pid ?? 0)
}

/** Replaces what a dead owner left at a path; false when somebody else already has. */
async function succeed (path: string, left: string, draft: string, root: string): Promise<boolean> {
  const succession = `${path}.${createHash('sha256').update(left).digest('hex').slice(0, 16)}`
  await claim(succession, draft, root)
  const copy = `${path}.${randomUUID()}`
  try {
    if (await textOf(path) !== left) return false
    await link(draft, copy)
    await rename(copy, path)
    return true
  } finally {
    await unlink(succession)
  }
}

async function textOf (path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
    return undefined
  }
}

interface Owner { pid: number, started: string }

function ownerOf (text: string): Owner | undefined {
  try {
    const { pid, started } = JSON.parse(text) as Partial<Owner>
    return typeof pid === 'number' && typeof started === 'string' ? { pid, started } : undefined
  } catch {
    return undefined // not a lock of ours: nobody can own it
  }
}

function isAlive ({ pid, started }: Owner): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM' // it lives, under another user
  }
  return startOf(pid) === started
}

/**
 * When a process started, in the kernel's ticks: a process id is used again after a restart of the machine. Empty where the system does not
 * say.
 */
function startOf (pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '' // field 22 of proc(5), counted after the command's name
  } catch {
    return ''
  }
}

function releaseLock (path: string, mine: string): void {
  try {
    if (readFileSync(path, 'utf8') === mine) unlinkSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  }
}
