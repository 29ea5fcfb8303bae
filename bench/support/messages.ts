import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { withAllocatorSettings } from '../../src/node/process/allocator.ts'

/** What a process did since it was last asked. */
export interface Report {
  readonly cpuMs: number
  /**
   * How late the event loop was at worst, and in the worst percent, beyond the millisecond that it is sampled at; 0 where nobody watched.
   */
  readonly lateMs: { readonly worst: number, readonly p99: number }
  /** By what was timed: milliseconds in all and of each call, and when each call ended. */
  readonly spans: Readonly<Record<string, { readonly ms: number, readonly each: readonly number[], readonly endedAt: readonly number[] }>>
}

/** A process that answers one question after another. */
export class Worker<Question, Answer> {
  readonly #child: ChildProcess

  private constructor (child: ChildProcess) {
    this.#child = child
  }

  /** Starts a script and waits for its first answer. */
  static async start<Question, Answer> (
    script: string,
    args: readonly string[]
  ): Promise<{ worker: Worker<Question, Answer>, first: Answer }> {
    const child = fork(script, args, { env: withAllocatorSettings(process.env) })
    const worker = new Worker<Question, Answer>(child)
    return { worker, first: await worker.#answer() }
  }

  get pid (): number { return this.#child.pid! }

  async ask (question: Question): Promise<Answer> {
    this.#child.send(question as object)
    return await this.#answer()
  }

  async stop (): Promise<void> {
    if (this.#child.exitCode !== null) return
    const ended = once(this.#child, 'exit')
    this.#child.disconnect()
    await ended
  }

  async #answer (): Promise<Answer> {
    const ended = new AbortController()
    const [answer] = await Promise.race([
      once(this.#child, 'message', { signal: ended.signal }) as Promise<[Answer]>,
      once(this.#child, 'exit', { signal: ended.signal }).then(([code]) => {
        throw new Error(`a process of the benchmark ended with ${String(code)}`)
      })
    ])
    ended.abort()
    return answer
  }
}
