/** Work that can share a run with other work of its kind. */
export interface Batchable {
  /** Rows that it adds to the run. */
  readonly rows: number
}

/**
 * Takes from the front of the queue what the next run carries: as many items as fit the row budget, at least one. Nobody waits for
 * company: what has gathered while the device was busy is the batch.
 */
export function takeBatch<Item extends Batchable> (queue: Item[], rowBudget: number): Item[] {
  let rows = 0
  let count = 0
  for (const item of queue) {
    if (count > 0 && rows + item.rows > rowBudget) break
    rows += item.rows
    count++
  }
  return queue.splice(0, count)
}
