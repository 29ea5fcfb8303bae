import { setTimeout as delay } from 'node:timers/promises'
import { MidspanError } from '../../../errors.ts'

export interface InOrderOptions {
  /** Items that are worked on at once. */
  readonly atOnce: number
  /** Whether work failed because others' work takes the room: it is then done again, alone. */
  readonly wantsRoom: (error: unknown) => boolean
  /** How often the caller hears that work goes on. */
  readonly tickMs: number
}

/**
 * Works on several items at once, and yields the results in the items' order; and a tick, now and then, while the next one takes long.
 * Where there is no room for so many, it goes on with one at a time. When it ends, the signal of work that is not over aborts.
 */
export async function * inOrder<Item, Result> (
  items: readonly Item[],
  work: (item: Item, signal: AbortSignal) => Promise<Result>,
  { atOnce: most, wantsRoom, tickMs }: InOrderOptions,
  signal: AbortSignal
): AsyncGenerator<{ readonly item: Item, readonly result: Result } | 'tick'> {
  const left = new AbortController()
  const until = AbortSignal.any([signal, left.signal])
  const running: Array<{ readonly result: Promise<Result>, readonly isAlone: boolean }> = []
  let [next, atOnce] = [0, most]
  const start = (item: Item): typeof running[number] => {
    const result = work(item, until)
    result.catch(() => {}) // thrown when it is its turn
    return { result, isAlone: atOnce === 1 }
  }
  try {
    for (const item of items) {
      while (next < items.length && running.length < atOnce) running.push(start(items[next++]!))
      let first = running.shift()!
      for (;;) {
        while (!await settles(first.result, tickMs)) yield 'tick'
        let result: Result
        try {
          result = await first.result
        } catch (error) {
          if (!wantsRoom(error) || first.isAlone) throw error
          atOnce = 1
          await Promise.allSettled(running.map(({ result }) => result))
          first = start(item)
          continue
        }
        yield { item, result }
        break
      }
    }
  } finally {
    left.abort(new MidspanError('E_CALLER_GONE', 'nobody waits for the results any more'))
    await Promise.allSettled(running.map(({ result }) => result))
  }
}

/** Whether a promise settles in time. */
async function settles (promise: Promise<unknown>, ms: number): Promise<boolean> {
  const over = new AbortController()
  try {
    return await Promise.race([promise.then(() => true, () => true), delay(ms, false, { signal: over.signal })])
  } finally {
    over.abort()
  }
}
