import { availableParallelism } from 'node:os'
import { median } from '../print.ts'
import type { ScaleReports } from './federation.ts'
import type { HostReport, Work } from './messages.ts'

/** What happened between two reports. */
export interface Interval {
  readonly reports: ScaleReports
  readonly ms: number
}

export function hostsOf ({ leader, workers, clients }: ScaleReports): HostReport[] {
  return [leader, ...workers, ...clients]
}

/** Computes the cores that all processes kept busy, of all cores that there are. */
export function coresBusy ({ reports, ms }: Interval): { readonly busy: number, readonly cores: number } {
  return { busy: hostsOf(reports).reduce((sum, { cpuMs }) => sum + cpuMs, 0) / ms, cores: availableParallelism() }
}

/** Computes the milliseconds in which the busiest of the servers' devices had something to compute. */
export function busiestMs ({ leader, workers }: ScaleReports): number {
  return Math.max(...[leader, ...workers].flatMap(({ busyMs }) => busyMs))
}

/** Finds when each round's last client was done with it. */
function roundEnds ({ times }: Work): number[] {
  const rounds = Math.min(...times.map((own) => own.length))
  return Array.from({ length: rounds }, (_, round) => Math.max(...times.map((own) => own[round]!)))
}

/** Computes the milliseconds of all rounds of everybody but the first. */
export function roundsMs (work: Work): number {
  const ends = roundEnds(work)
  return ends.at(-1)! - ends[0]!
}

/** Computes the milliseconds of a round of everybody: from one round's last client to the next one's. The first round is left out. */
export function roundMs (work: Work): number {
  const ends = roundEnds(work)
  return median(ends.slice(1).map((end, i) => end - ends[i]!))
}

/** Computes tokens a second of all clients together, while all of them have begun and none is done. */
export function tokensPerSecond ({ times }: Work): number {
  const [from, to] = [Math.max(...times.map((own) => own[0]!)), Math.min(...times.map((own) => own.at(-1)!))]
  return times.reduce((sum, own) => sum + own.filter((time) => time > from && time <= to).length, 0) / (to - from) * 1000
}
