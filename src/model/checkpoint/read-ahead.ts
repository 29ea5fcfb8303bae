/** One reading is under way while the last is used; more would only take memory. */
const readsAhead = 1

/** Reads items in their order, the next while one is used. When it ends, for whatever reason, no reading is under way. */
export async function * readAhead<Item, Value> (items: readonly Item[], read: (item: Item) => Promise<Value>): AsyncGenerator<[Item, Value]> {
  const underWay: Array<Promise<Value>> = []
  try {
    for (const [i, item] of items.entries()) {
      for (const next of items.slice(i + underWay.length, i + 1 + readsAhead)) underWay.push(watched(read(next)))
      yield [item, await underWay.shift()!]
    }
  } finally {
    await Promise.allSettled(underWay)
  }
}

/** A promise that may fail before anybody waits for it. */
export function watched<Value> (promise: Promise<Value>): Promise<Value> {
  promise.catch(() => {})
  return promise
}
