import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { readdir, writeFile } from 'node:fs/promises'
import { describe, expect, it, onTestFinished } from 'vitest'
import { homeAt } from '../../../src/node/home/home.ts'
import { lockHome } from '../../../src/node/home/lock.ts'
import { temporaryDirectory } from '../fixture.ts'

describe('the lock of a home', () => {
  it('is refused to a second holder, with the process named', async () => {
    const home = homeAt(await temporaryDirectory())
    const lock = await lockHome(home)
    await expect(lockHome(home)).rejects.toMatchObject({
      code: 'E_HOME_LOCKED',
      pid: process.pid,
      message: expect.stringContaining(String(process.pid)) as string
    })
    lock.release()
    expect(existsSync(home.lock)).toBe(false)
    const again = await lockHome(home)
    again.release()
  })

  it('is taken over from a process that died', async () => {
    const home = homeAt(await temporaryDirectory())
    const child = spawn(process.execPath, ['-e', ''])
    await once(child, 'exit')
    await writeFile(home.lock, JSON.stringify({ pid: child.pid, started: '1' }))
    await lockHome(home)
  })

  it('is taken over from a process whose number now belongs to another', async () => {
    const home = homeAt(await temporaryDirectory())
    await writeFile(home.lock, JSON.stringify({ pid: process.pid, started: 'before the restart' }))
    await lockHome(home)
  })

  it('is taken over when the file is not a lock', async () => {
    const home = homeAt(await temporaryDirectory())
    await writeFile(home.lock, 'garbage')
    await lockHome(home)
  })

  it('is held by one of many that try at once for a dead one\'s', async () => {
    const home = homeAt(await temporaryDirectory())
    const child = spawn(process.execPath, ['-e', ''])
    await once(child, 'exit')
    await writeFile(home.lock, JSON.stringify({ pid: child.pid, started: '1' }))
    const tries = await Promise.allSettled(Array.from({ length: 8 }, async () => await lockHome(home)))
    const held = tries.filter(({ status }) => status === 'fulfilled')
    onTestFinished(() => { for (const attempt of tries) if (attempt.status === 'fulfilled') attempt.value.release() })
    expect(held).toHaveLength(1)
  })

  it('is taken over also when who took it over died on the way', async () => {
    const root = await temporaryDirectory()
    const home = homeAt(root)
    const dead = JSON.stringify({ pid: 1, started: 'before the restart' })
    await writeFile(home.lock, dead)
    await writeFile(`${home.lock}.${createHash('sha256').update(dead).digest('hex').slice(0, 16)}`, dead)
    const lock = await lockHome(home)
    lock.release()
    expect(await readdir(root)).toEqual([])
  })
})
