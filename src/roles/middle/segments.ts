/** Someone's rows on their way through the middle: they board at block `first` and alight before block `end`. */
export interface Rider {
  readonly id: string
  readonly first: number
  readonly end: number
  readonly rows: number
}

/** A run of blocks that carries the same riders from its first block to its end. */
export interface Segment {
  readonly first: number
  readonly end: number
  /** Ids of the riders aboard, ordered, so that sums come out the same whoever arrived first. */
  readonly riders: readonly string[]
}

/**
 * Cuts the middle at every rider's boarding and alighting block: between two cuts everyone aboard shares each run. Riders that
 * together exceed the row budget share in groups; one that exceeds it alone rides alone.
 */
export function segments (riders: readonly Rider[], rowBudget = Infinity): Segment[] {
  const ordered = [...riders].sort((a, b) => a.id < b.id ? -1 : 1)
  const cuts = [...new Set(ordered.flatMap(({ first, end }) => [first, end]))].sort((a, b) => a - b)
  return cuts.slice(1).flatMap((end, index) => {
    const first = cuts[index] as number
    const aboard = ordered.filter((rider) => rider.first <= first && end <= rider.end)
    return groupsWithin(aboard, rowBudget).map((group) => ({ first, end, riders: group.map(({ id }) => id) }))
  })
}

/** Splits riders, in order, into the fewest consecutive groups whose rows stay within the budget. */
function groupsWithin (riders: readonly Rider[], rowBudget: number): Rider[][] {
  const groups: Rider[][] = []
  let rows = 0
  for (const rider of riders) {
    const group = groups.at(-1)
    if (group === undefined || rows + rider.rows > rowBudget) {
      groups.push([rider])
      rows = rider.rows
    } else {
      group.push(rider)
      rows += rider.rows
    }
  }
  return groups
}
