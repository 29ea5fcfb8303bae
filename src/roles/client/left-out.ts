import type { ServerDirectory } from '../context.ts'
import { serversOf } from '../middle/chain-name.ts'

/** How long a server that failed is left out of routes for the first time. Each further failure doubles it. */
const LEFT_OUT_MS = 30_000
const LONGEST_LEFT_OUT_MS = 600_000

/** A server that did not fail for so long after it came back is trusted as at first. */
const FORGIVEN_AFTER_MS = 600_000

interface Failure {
  readonly untilMs: number
  /** How often it failed. */
  readonly failures: number
  /** Whether it was seen disconnected since, or not known any more. */
  wasGone: boolean
}

/**
 * Remembers which servers failed a short time ago, for all sequences of a client, and, by the names of both, which pairs of servers did
 * not hand over. A server that was gone and has come back is let in again at once.
 */
export class LeftOutServers {
  readonly #directory: ServerDirectory
  readonly #now: () => number
  readonly #failures = new Map<string, Failure>()

  /** `now` returns milliseconds since any fixed moment. */
  constructor (directory: ServerDirectory, now = (): number => performance.now()) {
    this.#directory = directory
    this.#now = now
    directory.onServersChanged(() => { this.#look() })
  }

  /** Leaves a server out of routes for a while. One that is not connected is left out anyway: its failure is counted once. */
  add (server: string): void {
    const nowMs = this.#now()
    for (const [id, { untilMs }] of this.#failures) if (nowMs > untilMs + FORGIVEN_AFTER_MS) this.#failures.delete(id)
    const before = this.#failures.get(server)?.failures ?? 0
    const failures = before === 0 || isConnected(server, this.#connected()) ? before + 1 : before
    const untilMs = nowMs + Math.min(LEFT_OUT_MS * 2 ** (failures - 1), LONGEST_LEFT_OUT_MS)
    this.#failures.set(server, { untilMs, failures, wasGone: false })
    this.#look()
  }

  has (server: string): boolean {
    return this.#now() < (this.#failures.get(server)?.untilMs ?? -Infinity)
  }

  #connected (): ReadonlySet<string> {
    return new Set(this.#directory.servers().filter(({ connected }) => connected).map(({ peerId }) => peerId.toString()))
  }

  #look (): void {
    const nowMs = this.#now()
    const connected = this.#connected()
    for (const [id, failure] of this.#failures) {
      if (!isConnected(id, connected)) failure.wasGone = true
      else if (failure.wasGone) this.#failures.set(id, { ...failure, untilMs: Math.min(failure.untilMs, nowMs), wasGone: false })
    }
  }
}

/** Whether a server is connected, or all servers of a chain are. */
function isConnected (name: string, connected: ReadonlySet<string>): boolean {
  return serversOf(name).every((server) => connected.has(server))
}
