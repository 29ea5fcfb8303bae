import { widenThreads } from './widening.ts'

/**
 * Reads items in their order, the next ones while one is used, as many as there are threads for. When it ends, for whatever reason, no
 * reading is under way.
 */
export async function* readAhead<Item, Value> (
  items: readonly Item[],
  read: (item: Item) => Promise<Value>
): AsyncGenerator<[Item, Value]> {
  const underWay: Array<Promise<Value>> = []
  try {
    for (const [i, item] of items.entries()) {
      for (const next of items.slice(i + underWay.length, i + widenThreads)) {
        const reading = read(next)
        reading.catch(() => {}) // it may fail before anybody waits for it
        underWay.push(reading)
      }
      yield [item, await underWay.shift()!]
    }
  } finally {
    await Promise.allSettled(underWay)
  }
}
