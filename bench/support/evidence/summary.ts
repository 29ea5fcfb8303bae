import { bootstrap, type Interval } from '../../../src/model/tasks/bootstrap.ts'
import type { Cell, Leak } from './cells.ts'
import { isProtected } from './protections.ts'

/** What one kind of model came to on one data set. */
export interface Row {
  readonly system: string
  /** Of the data set's metric, the mean over seeds, and over clients where each has a model of its own. */
  readonly score: Interval
  /** Of a token of the right answers, in nats. */
  readonly loss: Interval
  /** The metric of each seed. */
  readonly seeds: ReadonlyArray<{ readonly seed: number | null, readonly score: number }>
}

/** The first less the second, on the same questions. */
export interface Difference {
  readonly of: string
  readonly from: string
  readonly score: Interval
  readonly loss: Interval
}

export interface Summary {
  readonly problem: string
  readonly questions: number
  readonly rows: readonly Row[]
  readonly differences: readonly Difference[]
  /** The greatest distance of a federation to centralised training, over the way that this went; undefined where it was not measured. */
  readonly fromCentralised?: number
  /** Of the questions of all seeds, those that the federation and centralised training have different scores on. */
  readonly otherwiseAnswered?: number
  /** Bytes of one client in a training, on average. */
  readonly wireBytes?: number
  /** What each federation let leak, means over seeds; undefined where it was not measured. */
  readonly leaks?: ReadonlyArray<Leak & { readonly system: string }>
}

const BOOTSTRAP_SEED = 'evidence'

/** Returns the name of the system of one client that trains alone. */
export function aloneSystem (client: number): string {
  return `alone ${client + 1}`
}

/** Sums up the cells of one data set, as far as they are there. */
export function summarise (problem: string, cells: readonly Cell[]): Summary {
  const own = cells.filter((cell) => cell.problem === problem)
  const of = (system: string): Cell[] => own.filter((cell) => cell.system === system)
  const clients = [...new Set(own.map(({ system }) => system).filter((system) => /^alone \d+$/.test(system)))].sort()
  const guarded = [...new Set(own.map(({ system }) => system).filter(isProtected))]
  const groups = new Map<string, readonly Cell[]>([
    ['base', of('base')],
    ...clients.map((system) => [system, of(system)] as const),
    ...clients.length === 0 ? [] : [['alone, mean', clients.flatMap(of)] as const],
    ['federated', of('federated')],
    ['centralised', of('centralised')],
    ...guarded.map((system) => [system, of(system)] as const)
  ])
  const present = [...groups].filter(([, group]) => group.length > 0)
  const [federated, centralised] = [of('federated'), of('centralised')]
  const pairs = federated.flatMap((cell) => {
    const other = centralised.find(({ seed }) => seed === cell.seed)
    return other === undefined ? [] : [[cell, other] as const]
  })
  const differences = ['centralised', 'alone, mean', 'base'].flatMap((from) => {
    const other = groups.get(from) ?? []
    return federated.length === 0 || other.length === 0 ? [] : [differenceOf('federated', from, federated, other)]
  }).concat(federated.length === 0 ? [] : guarded.map((system) => differenceOf(system, 'federated', of(system), sameSeeds(federated, of(system)))))
  const measured = federated.flatMap(({ fromCentralised }) => fromCentralised ?? [])
  return {
    problem,
    questions: own[0]?.scores.length ?? 0,
    rows: present.map(([system, group]) => rowOf(system, group)),
    differences,
    ...measured.length === 0 ? {} : { fromCentralised: Math.max(...measured) },
    ...pairs.length === 0
      ? {}
      : { otherwiseAnswered: pairs.reduce((sum, [a, b]) => sum + a.scores.filter((score, i) => score !== b.scores[i]).length, 0) },
    ...guarded.length === 0 ? {} : { leaks: leaksOver(guarded, of) },
    ...federated.length === 0 ? {} : { wireBytes: federated.reduce((sum, { wireBytes = 0 }) => sum + wireBytes, 0) / federated.length }
  }
}

/** Returns the cells of the seeds that others have. */
function sameSeeds (cells: readonly Cell[], others: readonly Cell[]): Cell[] {
  return cells.filter(({ seed }) => others.some((other) => other.seed === seed))
}

/** Returns what each protected federation let leak, after what one of them would have let leak without its noise. */
function leaksOver (systems: readonly string[], of: (system: string) => readonly Cell[]): Array<Leak & { readonly system: string }> {
  const noisy = systems.map(of).find((cells) => cells.some(({ unprotectedLeak }) => unprotectedLeak !== undefined)) ?? []
  return [
    ...meanLeak('federated', noisy.flatMap(({ unprotectedLeak }) => unprotectedLeak ?? [])),
    ...systems.flatMap((system) => meanLeak(system, of(system).flatMap(({ leak }) => leak ?? [])))
  ]
}

/** Returns the mean of what a system let leak; nothing where it was not measured. */
function meanLeak (system: string, leaks: readonly Leak[]): Array<Leak & { readonly system: string }> {
  if (leaks.length === 0) return []
  const mean = (value: (leak: Leak) => number): number => leaks.reduce((sum, leak) => sum + value(leak), 0) / leaks.length
  return [{
    system,
    recovered: mean(({ recovered }) => recovered),
    recoveredError: mean(({ recoveredError }) => recoveredError),
    leak: mean(({ leak }) => leak),
    leakError: mean(({ leakError }) => leakError),
    withheldShare: mean(({ withheldShare }) => withheldShare),
    tokens: leaks.reduce((sum, { tokens }) => sum + tokens, 0)
  }]
}

function rowOf (system: string, cells: readonly Cell[]): Row {
  const questions = cells[0]!.scores.length
  const seeds = [...new Set(cells.map(({ seed }) => seed))]
  const all = Uint32Array.from({ length: questions }, (_, i) => i)
  return {
    system,
    score: bootstrap(questions, (records) => scoreOver(cells, records), BOOTSTRAP_SEED),
    loss: bootstrap(questions, (records) => lossOver(cells, records), BOOTSTRAP_SEED),
    seeds: seeds.map((seed) => ({ seed, score: scoreOver(cells.filter((cell) => cell.seed === seed), all) }))
  }
}

function differenceOf (of: string, from: string, a: readonly Cell[], b: readonly Cell[]): Difference {
  const questions = a[0]!.scores.length
  return {
    of,
    from,
    score: bootstrap(questions, (records) => scoreOver(a, records) - scoreOver(b, records), BOOTSTRAP_SEED),
    loss: bootstrap(questions, (records) => lossOver(a, records) - lossOver(b, records), BOOTSTRAP_SEED)
  }
}

/** Returns the mean score of some questions over some cells. */
function scoreOver (cells: readonly Cell[], records: ArrayLike<number>): number {
  let sum = 0
  for (const { scores } of cells) for (let i = 0; i < records.length; i++) sum += scores[records[i]!]!
  return sum / (cells.length * records.length)
}

/** Returns the mean loss of a token of some questions' right answers over some cells. */
function lossOver (cells: readonly Cell[], records: ArrayLike<number>): number {
  let [sum, count] = [0, 0]
  for (const { losses, tokens } of cells) {
    for (let i = 0; i < records.length; i++) {
      sum += losses[records[i]!]!
      count += tokens[records[i]!]!
    }
  }
  return sum / count
}
