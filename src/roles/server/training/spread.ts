import type { Span } from '../../../span.ts'

/** Who holds a span, as far as a plan needs it. */
export interface SpanHolder {
  readonly peer: string
  readonly span: Span
  /** Measured speed in any unit that all holders share; undefined while nothing was measured. */
  readonly speed: number | undefined
}

/** Consecutive blocks `[first, end)` and who serves all of them: its replicas. */
export interface ReplicatedStage<H> extends Span {
  readonly replicas: readonly H[]
}

/**
 * Finds the longest stage from block `first` on, before block `end`, all of whose blocks have the same holders. Undefined where nobody
 * holds the first block.
 */
export function stageFrom<H extends SpanHolder> (first: number, end: number, holders: readonly H[]): ReplicatedStage<H> | undefined {
  const present = holders.filter(({ span }) => span.first <= first && first < span.end)
  if (present.length === 0) return undefined
  const cuts = [
    end,
    ...present.map(({ span }) => span.end),
    ...holders.filter(({ span }) => span.first > first && span.end > span.first).map(({ span }) => span.first)
  ]
  return { first, end: Math.min(...cuts), replicas: present }
}

/** Something to be computed, and how much work it is, in any unit that all items share. */
export interface WorkItem {
  readonly id: string
  readonly work: number
}

/**
 * Spreads items over holders so that all of them are done at about the same time: the largest item first, each to the holder that would
 * have it done soonest, and of several the one whose peer id comes first. A holder without a measured speed is taken to be as fast as the
 * others on average. `queued` is the work that a holder has to do before. Returns the items of each holder that got some, by id; holders
 * and items are ordered by their ids.
 */
export function spread<H extends SpanHolder, I extends WorkItem> (
  items: readonly I[],
  holders: readonly H[],
  queued: (holder: H) => number = () => 0
): Array<{ readonly holder: H, readonly items: readonly I[] }> {
  const measured = holders.flatMap(({ speed }) => speed !== undefined && speed > 0 ? [speed] : [])
  const usual = measured.length === 0 ? 1 : measured.reduce((sum, speed) => sum + speed, 0) / measured.length
  const queues = holders.toSorted((a, b) => order(a.peer, b.peer)).map((holder) => ({
    holder,
    speed: holder.speed !== undefined && holder.speed > 0 ? holder.speed : usual,
    work: queued(holder),
    items: [] as I[]
  }))
  for (const item of items.toSorted((a, b) => b.work - a.work || order(a.id, b.id))) {
    let best = queues[0]
    for (const queue of queues)
      if (best === undefined || (queue.work + item.work) / queue.speed < (best.work + item.work) / best.speed) best = queue
    if (best === undefined) throw new RangeError('there is no holder to spread items over')
    best.work += item.work
    best.items.push(item)
  }
  return queues.filter((queue) => queue.items.length > 0)
    .map(({ holder, items: own }) => ({ holder, items: own.toSorted((a, b) => order(a.id, b.id)) }))
}

function order (a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
