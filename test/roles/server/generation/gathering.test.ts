import { expect, it } from 'vitest'
import { Gathering } from '../../../../src/roles/server/generation/gathering.ts'

/** Whether a wait has ended by the next turn of the event loop. */
async function hasEnded (wait: Promise<void>): Promise<boolean> {
  let ended = false
  void wait.then(() => { ended = true })
  await new Promise((resolve) => setImmediate(resolve))
  return ended
}

it('the next run waits until the last of those is there who came back soon before', async () => {
  const gathering = new Gathering()
  gathering.ran(40_000, [{ id: 'a', returnMs: 20 }, { id: 'b', returnMs: 9_000 }, { id: 'slow', returnMs: 11_000 }, { id: 'new', returnMs: undefined }])
  gathering.settled('a')
  const wait = gathering.wait()
  expect(await hasEnded(wait)).toBe(false)
  gathering.settled('slow')
  expect(await hasEnded(wait)).toBe(false)
  gathering.settled('b')
  expect(await hasEnded(wait)).toBe(true)
})

it('waits for a quarter of the run at most, counted from its answers, and not for what timers cannot measure', async () => {
  let nowMs = 0
  const gathering = new Gathering(() => nowMs)
  gathering.ran(40, [{ id: 'a', returnMs: 5 }])
  nowMs = 10
  expect(await hasEnded(gathering.wait())).toBe(true)
  nowMs = 20
  gathering.ran(40, [{ id: 'a', returnMs: 5 }])
  await gathering.wait()
  gathering.ran(3.9, [{ id: 'a', returnMs: 0.1 }])
  expect(await hasEnded(gathering.wait())).toBe(true)
})

it('a wait that was given up is not taken up by the next run', async () => {
  const gathering = new Gathering()
  gathering.ran(40, [{ id: 'gone', returnMs: 1 }])
  await gathering.wait()
  gathering.ran(40_000, [])
  expect(await hasEnded(gathering.wait())).toBe(true)
})
