/** One client's hidden states in a batch, and the blocks `[first, end)` that compute them. */
export interface SegmentItem {
  readonly id: string
  readonly first: number
  readonly end: number
  readonly rows: number
}

/** Consecutive blocks `[first, end)` that run once for the same items. */
export interface Segment {
  readonly first: number
  readonly end: number
  /** Ids of the items in the run, sorted, so that sums do not depend on the order of arrival. */
  readonly items: readonly string[]
}

/**
 * Cuts the middle at every item's first block and end: between two cuts all items that these blocks compute share each run. Items that
 * together exceed the row budget run in groups. An item that exceeds it alone runs alone.
 */
export function segments (items: readonly SegmentItem[], rowBudget = Infinity): Segment[] {
  const ordered = [...items].sort((a, b) => a.id < b.id ? -1 : 1)
  const cuts = [...new Set(ordered.flatMap(({ first, end }) => [first, end]))].sort((a, b) => a - b)
  return cuts.slice(1).flatMap((end, index) => {
    const first = cuts[index] as number
    const active = ordered.filter((item) => item.first <= first && end <= item.end)
    return groupsWithin(active, ({ rows }) => rows, rowBudget).map((group) => ({ first, end, items: group.map(({ id }) => id) }))
  })
}

/** Splits items, in order, into the fewest consecutive groups whose rows stay within the budget. An item that exceeds it is alone. */
export function groupsWithin<Item> (items: readonly Item[], rowsOf: (item: Item) => number, rowBudget: number): Item[][] {
  const groups: Item[][] = []
  let rows = 0
  for (const item of items) {
    const group = groups.at(-1)
    if (group === undefined || rows + rowsOf(item) > rowBudget) {
      groups.push([item])
      rows = rowsOf(item)
    } else {
      group.push(item)
      rows += rowsOf(item)
    }
  }
  return groups
}
