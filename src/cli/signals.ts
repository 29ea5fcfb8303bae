import { constants } from 'node:os'
import { InterruptedError, type Interruption } from './exit.ts'

/** Ctrl-C, a request to end, and a terminal that was closed. */
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** What tells a process to stop. */
export interface StopSignal {
  /** Aborts with an InterruptedError. */
  readonly signal: AbortSignal
  /** Stops the process as the operating system's signal of that name would. */
  stop (by: Interruption): void
}

/** Listens to the operating system's signals: the first aborts, the second ends the process where it stands. */
export function listenToSignals (): StopSignal {
  const controller = new AbortController()
  const stop = (by: Interruption): void => { controller.abort(new InterruptedError(by)) }
  for (const name of STOP_SIGNALS) {
    process.on(name, () => {
      if (name === 'SIGHUP' && outlivesTerminal()) return
      if (controller.signal.aborted) process.exit(128 + constants.signals[name])
      stop(name)
    })
  }
  return { signal: controller.signal, stop }
}

/**
 * Whether a terminal that closes is nothing to this process: under `nohup` no standard stream is one. Node.js itself puts SIGHUP back to
 * its default when it starts, so that /proc/self/status does not tell any more that `nohup` had it ignored.
 */
export function outlivesTerminal (
  streams: ReadonlyArray<{ readonly isTTY?: boolean }> = [process.stdin, process.stdout, process.stderr]
): boolean {
  return streams.every(({ isTTY }) => isTTY !== true)
}
