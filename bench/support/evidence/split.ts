import { permutation, SeededRandom } from '../../../src/model/random.ts'

/** How records are spread over clients. */
export type Split =
  | { readonly by: 'iid' }
  /** Every value of a field goes to one client, with all of its records. */
  | { readonly by: 'field' }
  /** Of every value of a field, the clients' shares are drawn from a Dirichlet distribution: the smaller alpha, the more uneven. */
  | { readonly by: 'dirichlet', readonly alpha: number }

/** A record, with the value that it is spread by. */
export interface Grouped {
  readonly group: string
}

/** Draws until every client has its least, at most so often. */
const DRAWS = 1000

/**
 * Spreads records over clients; the same seed gives the same split. Each client has `least` records, or an error is thrown: a client
 * without data has nothing to bring to a round.
 */
export function splitOver<T extends Grouped> (items: readonly T[], clients: number, split: Split, seed: string, least = 1): T[][] {
  if (items.length < clients * least) throw new RangeError(`${items.length} records are too few for ${clients} clients with ${least} each`)
  const shuffled = Array.from(permutation(items.length, `${seed}/split`), (i) => items[i]!)
  const random = new SeededRandom(`${seed}/shares`)
  for (let draw = 0; draw < DRAWS; draw++) {
    const shares = sharesOf(shuffled, clients, split, random)
    if (shares.every(({ length }) => length >= least)) return shares
  }
  throw new RangeError(`no split of ${items.length} records leaves each of ${clients} clients ${least}`)
}

function sharesOf<T extends Grouped> (items: readonly T[], clients: number, split: Split, random: SeededRandom): T[][] {
  const shares = Array.from({ length: clients }, (): T[] => [])
  if (split.by === 'iid') {
    for (const [i, item] of items.entries()) shares[i % clients]!.push(item)
    return shares
  }
  const groups = new Map<string, T[]>()
  for (const item of items) groups.set(item.group, [...groups.get(item.group) ?? [], item])
  if (split.by === 'field') {
    const names = [...groups.keys()].sort()
    for (const [i, name] of permutation(names.length, `groups/${random.nextUint32()}`).entries())
      shares[i % clients]!.push(...groups.get(names[name]!)!)
    return shares
  }
  for (const group of groups.values()) {
    let [at, sum] = [0, 0]
    for (const [client, share] of dirichlet(clients, split.alpha, random).entries()) {
      sum += share
      const end = client === clients - 1 ? group.length : Math.min(group.length, Math.round(sum * group.length))
      shares[client]!.push(...group.slice(at, end))
      at = Math.max(at, end)
    }
  }
  return shares
}

/** Draws `count` shares that add up to 1, from a symmetric Dirichlet distribution. */
export function dirichlet (count: number, alpha: number, random: SeededRandom): number[] {
  // In logarithms: of a small alpha, the draws themselves may all be 0.
  const draws = Array.from({ length: count }, () => logGamma(alpha, random))
  const greatest = Math.max(...draws)
  const weights = draws.map((draw) => Math.exp(draw - greatest))
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  return weights.map((weight) => weight / total)
}

/** Draws the logarithm of a gamma variable of scale 1. Marsaglia and Tsang, "A Simple Method for Generating Gamma Variables" (2000). */
function logGamma (shape: number, random: SeededRandom): number {
  if (shape < 1) return logGamma(shape + 1, random) + Math.log(1 - random.nextFloat()) / shape
  const d = shape - 1 / 3
  const c = 1 / Math.sqrt(9 * d)
  for (;;) {
    const x = normal(random)
    const v = (1 + c * x) ** 3
    if (v > 0 && Math.log(1 - random.nextFloat()) < x * x / 2 + d - d * v + d * Math.log(v)) return Math.log(d * v)
  }
}

/** Draws a normal variable by the method of Box and Muller. */
function normal (random: SeededRandom): number {
  return Math.sqrt(-2 * Math.log(1 - random.nextFloat())) * Math.cos(2 * Math.PI * random.nextFloat())
}

/** Says how records are spread, for people. */
export function splitText (split: Split): string {
  if (split.by === 'iid') return 'at random'
  return split.by === 'field' ? 'each value of the field with one client' : `by the field, Dirichlet ${split.alpha}`
}
