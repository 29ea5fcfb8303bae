import { fork } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { homeAt, type Home } from '../../../src/node/home/home.ts'
import { lockHome } from '../../../src/node/home/lock.ts'
import { temporaryDirectory } from '../fixture.ts'

/** Another process that holds the lock of a home until it is killed. */
async function holderOf (home: Home) {
  const child = fork(join(import.meta.dirname, 'lock-holder.ts'), [home.root])
  onTestFinished(() => { child.kill('SIGKILL') })
  await once(child, 'message')
  return child
}

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
    lock.release()
    const again = await lockHome(home)
    again.release()
  })

  it('is held by a process that lives, and free as soon as the process is killed', async () => {
    const home = homeAt(await temporaryDirectory())
    const child = await holderOf(home)
    await expect(lockHome(home)).rejects.toMatchObject({ code: 'E_HOME_LOCKED', pid: child.pid })
    child.kill('SIGKILL')
    await once(child, 'exit')
    const lock = await lockHome(home)
    lock.release()
  })

  it('does not depend on the process number in the file, which another container counts differently', async () => {
    const home = homeAt(await temporaryDirectory())
    await holderOf(home)
    // A process id that nobody has here, as when the holder is in a container of its own.
    await writeFile(home.lock, JSON.stringify({ pid: 2 ** 30, host: 'another-container' }))
    await expect(lockHome(home)).rejects.toThrow('a process on another-container')
  })

  it.each([
    ['names a process that does not hold it', JSON.stringify({ pid: process.pid, host: hostname() })],
    ['is not a lock', 'garbage']
  ])('is free when the file is left behind and %s', async (_, left) => {
    const home = homeAt(await temporaryDirectory())
    await writeFile(home.lock, left)
    const lock = await lockHome(home)
    lock.release()
  })

  it('is held by one of many that try at once', async () => {
    const home = homeAt(await temporaryDirectory())
    const tries = await Promise.allSettled(Array.from({ length: 8 }, async () => await lockHome(home)))
    const held = tries.filter(({ status }) => status === 'fulfilled')
    onTestFinished(() => { for (const attempt of tries) if (attempt.status === 'fulfilled') attempt.value.release() })
    expect(held).toHaveLength(1)
  })
})
