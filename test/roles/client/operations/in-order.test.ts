import { describe, expect, it } from 'vitest'
import { inOrder } from '../../../../src/roles/client/operations/in-order.ts'

/** Work that ends when it is told to, and counts what runs at once. */
class Desk {
  running = 0
  most = 0
  readonly #ends = new Map<number, PromiseWithResolvers<void>>()

  readonly work = async (item: number, signal: AbortSignal): Promise<string> => {
    this.most = Math.max(this.most, ++this.running)
    const end = Promise.withResolvers<void>()
    this.#ends.set(item, end)
    signal.addEventListener('abort', () => { end.reject(signal.reason as Error) })
    try {
      await end.promise
    } finally {
      this.running--
    }
    return `done ${item}`
  }

  end (item: number): void {
    this.#ends.get(item)?.resolve()
  }
}

const options = { atOnce: 2, wantsRoom: () => false, tickMs: 60_000 }
const never = new AbortController().signal

describe('work on several items at once', () => {
  it('has its results in the order of the items', async () => {
    const desk = new Desk()
    const results = inOrder([0, 1, 2], desk.work, options, never)
    const first = results.next()
    desk.end(1)
    desk.end(0)
    expect((await first).value).toEqual({ item: 0, result: 'done 0' })
    const second = await results.next()
    expect(second.value).toEqual({ item: 1, result: 'done 1' })
    desk.end(2)
    expect((await results.next()).value).toEqual({ item: 2, result: 'done 2' })
    expect([(await results.next()).done, desk.most]).toEqual([true, 2])
  })

  it('is done again one by one where there is no room for so many', async () => {
    let [running, most] = [0, 0]
    const tries: number[] = []
    const work = async (item: number): Promise<number> => {
      tries.push(item)
      running++
      await new Promise((resolve) => setImmediate(resolve))
      most = running
      const isFull = running > 1
      await new Promise((resolve) => setImmediate(resolve))
      running--
      if (isFull) throw new Error('full')
      return item
    }
    const results: unknown[] = []
    for await (const event of inOrder([0, 1, 2], work, { ...options, wantsRoom: (error) => (error as Error).message === 'full' }, never)) results.push(event)
    expect(results).toEqual([0, 1, 2].map((item) => ({ item, result: item })))
    expect([tries.slice(0, 2), most]).toEqual([[0, 1], 1])
  })

  it('ends with the first failure in order, and what runs then is told', async () => {
    const desk = new Desk()
    const work = async (item: number, signal: AbortSignal): Promise<string> => {
      if (item === 0) throw new Error('broken')
      return await desk.work(item, signal)
    }
    await expect(inOrder([0, 1, 2], work, options, never).next()).rejects.toThrow('broken')
    expect(desk.running).toBe(0)
  })
})
