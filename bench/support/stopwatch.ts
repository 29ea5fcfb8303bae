import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { Report } from './messages.ts'

const SAMPLE_MS = 1

/** Measures what this process does, from one report to the next. */
export class Stopwatch {
  readonly #delay = monitorEventLoopDelay({ resolution: SAMPLE_MS })
  #spans: Record<string, { ms: number, each: number[], endedAt: number[] }> = {}
  #cpu = process.cpuUsage()

  /** Samples how late the event loop is: a thousand times a second, which short stages would feel. */
  watchEventLoop (): void {
    this.#delay.enable()
  }

  /** Times an asynchronous method of all objects of a class under a name. */
  time<Method extends string> (prototype: Record<Method, (...args: never[]) => Promise<unknown>>, method: Method, name: string): void {
    const original = prototype[method] as (...args: unknown[]) => Promise<unknown>
    const record = (start: number): void => {
      const span = this.#spans[name] ??= { ms: 0, each: [], endedAt: [] }
      const end = performance.now()
      span.ms += end - start
      span.each.push(end - start)
      span.endedAt.push(end)
    }
    const timed = async function (this: unknown, ...args: unknown[]): Promise<unknown> {
      const start = performance.now()
      try {
        return await original.apply(this, args)
      } finally {
        record(start)
      }
    }
    prototype[method] = timed
  }

  /** What was measured since the last report. */
  report (): Report {
    const { user, system } = process.cpuUsage(this.#cpu)
    const report = {
      cpuMs: (user + system) / 1000,
      lateMs: { worst: Math.max(0, this.#delay.max / 1e6 - SAMPLE_MS), p99: Math.max(0, this.#delay.percentile(99) / 1e6 - SAMPLE_MS) },
      spans: this.#spans
    }
    this.#spans = {}
    this.#cpu = process.cpuUsage()
    this.#delay.reset()
    return report
  }
}
