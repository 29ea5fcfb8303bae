import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { MAX_WAITING_TEXTS, Places, type GiveBack } from '../../../src/node/http/places.ts'

const never = new AbortController().signal

/** Whether a promise is settled already. */
async function isSettled (promise: Promise<unknown>): Promise<boolean> {
  let settled = false
  const settle = (): void => { settled = true }
  promise.then(settle, settle)
  await turn()
  return settled
}

describe('places', () => {
  it('are given in the order in which they were asked for', async () => {
    const places = new Places(2)
    const asked = [...places.take(2, never), ...places.take(1, never), ...places.take(1, never)]
    expect(await Promise.all(asked.map(isSettled))).toEqual([true, true, false, false])
    const giveBack = await asked[0]!
    giveBack()
    giveBack()
    expect(await Promise.all(asked.map(isSettled))).toEqual([true, true, true, false])
  })

  it('are not taken by who went away while waiting', async () => {
    const places = new Places(1)
    const [first] = places.take(1, never)
    const gone = new AbortController()
    const [second] = places.take(1, gone.signal)
    const [third] = places.take(1, never)
    gone.abort(new Error('gone'))
    await expect(second).rejects.toThrow('gone')
    ;(await first!)()
    expect(await isSettled(third!)).toBe(true)
    await expect(places.take(1, gone.signal)[0]).rejects.toThrow('gone')
  })

  it('refuse at once what would wait behind too many others, and take it later', async () => {
    const places = new Places(1, 2)
    const asked = places.take(3, never)
    expect(() => places.take(1, never)).toThrow(/2 texts wait already/)
    ;(await asked[0]!)()
    expect(places.take(1, never)).toHaveLength(1)
  })

  it(`let ${MAX_WAITING_TEXTS} texts wait`, async () => {
    const places = new Places(1)
    const held: Array<Promise<GiveBack>> = [...places.take(1, never), ...places.take(MAX_WAITING_TEXTS, never)]
    expect(() => places.take(1, never)).toThrow(expect.objectContaining({ status: 429, code: 'queue_full' }))
    expect(held).toHaveLength(MAX_WAITING_TEXTS + 1)
  })
})
