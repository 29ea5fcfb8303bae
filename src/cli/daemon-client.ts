import type { EventOf, GivenParameters, OperationName, ResultOf } from '../api/operations.ts'
import { MidspanError } from '../errors.ts'
import { ControlClient } from '../node/control/client.ts'
import { homeAt } from '../node/home/home.ts'
import type { Terminal } from './terminal.ts'

/** A daemon that has not answered for so long is named as what the command waits for. */
const QUIET_MS = 5_000

/** A daemon answers such questions by itself, or after looking at its peers for some seconds. */
const ANSWER_TIMEOUT_MS = 120_000

/** Thrown when the daemon takes a question and answers nothing. */
export class DaemonSilentError extends MidspanError {
  constructor (home: string, timeoutMs: number) {
    super('E_DAEMON_SILENT', `the daemon in ${home} has not answered for ${timeoutMs / 1000} s`, {
      next: `see ${homeAt(home).log}; stop the daemon and start it again`
    })
  }
}

/**
 * Asks the daemon in `home` for one answer, and says after some seconds that it waits for it.
 * Throws NoDaemonError (E_NO_DAEMON) when none runs there, DaemonSilentError, and what the daemon answers as an error.
 */
export async function askDaemon<Name extends OperationName> (
  home: string,
  operation: Name,
  parameters: GivenParameters<Name>,
  signal: AbortSignal,
  terminal?: Terminal,
  timeoutMs = ANSWER_TIMEOUT_MS
): Promise<ResultOf<Name>> {
  const silent = new AbortController()
  const limit = setTimeout(() => { silent.abort(new DaemonSilentError(home, timeoutMs)) }, timeoutMs)
  const quiet = setTimeout(() => { terminal?.note(`Waiting: the daemon in ${home} has not answered yet`) }, QUIET_MS)
  try {
    return await new ControlClient(homeAt(home)).request(operation, parameters, AbortSignal.any([signal, silent.signal]))
  } finally {
    clearTimeout(limit)
    clearTimeout(quiet)
  }
}

/**
 * Yields the events of a long operation of the daemon in `home`; throws as `askDaemon` does. Ending the loop, or the signal, stops the
 * operation.
 */
export async function * callDaemon<Name extends OperationName> (
  home: string,
  operation: Name,
  parameters: GivenParameters<Name>,
  signal: AbortSignal
): AsyncGenerator<EventOf<Name>> {
  yield * new ControlClient(homeAt(home)).stream(operation, parameters, signal)
}
