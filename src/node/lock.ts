import { randomUUID } from 'node:crypto'
import { link, readFile, rename, unlink, writeFile } from 'node:fs/promises'
import { readFileSync, unlinkSync } from 'node:fs'
import { MidspanError } from '../errors.ts'
import type { Home } from './home.ts'

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

/** A lock that its owner left behind is taken over; each try meets a different owner, so a few are enough. */
const MAX_TRIES = 5

/** Takes the home for this process. Throws HomeLockedError when a living process has it. */
export async function lockHome (home: Home): Promise<HomeLock> {
  const mine = JSON.stringify({ pid: process.pid, started: startOf(process.pid) })
  const draft = `${home.lock}.${randomUUID()}`
  await writeFile(draft, mine, { mode: 0o600, flag: 'wx' })
  try {
    for (let tries = 0; tries < MAX_TRIES; tries++) {
      try {
        await link(draft, home.lock) // unlike a create, it never shows others an empty file
        return { release: () => { releaseLock(home.lock, mine) } }
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      }
      await removeStale(home)
    }
    throw new HomeLockedError(home.root, ownerOf(await readFile(home.lock, 'utf8'))?.pid ?? 0)
  } finally {
    await unlink(draft)
  }
}

async function removeStale (home: Home): Promise<void> {
  const aside = `${home.lock}.${randomUUID()}`
  try {
    const text = await readFile(home.lock, 'utf8')
    const owner = ownerOf(text)
    if (owner !== undefined && isAlive(owner)) throw new HomeLockedError(home.root, owner.pid)
    await rename(home.lock, aside)
    if (await readFile(aside, 'utf8') !== text) await link(aside, home.lock) // somebody took over in between: give it back
    await unlink(aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error // gone meanwhile: try again
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

/** When a process started, in the kernel's ticks: a process id is used again after a restart of the machine. Empty where the system does not say. */
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
