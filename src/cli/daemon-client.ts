import { ControlClient } from '../node/control/client.ts'
import { homeAt } from '../node/home/home.ts'

type OperationName = 'status' | 'peers' | 'invite' | 'leave' | 'remove' | 'train' | 'evaluate' | 'generate' | 'export'

/** One answer of the daemon in `home`. Throws NoDaemonError (E_NO_DAEMON) when none runs there, and what the daemon answers as an error. */
export async function askDaemon<T> (home: string, operation: OperationName, parameters: object, signal: AbortSignal): Promise<T> {
  return await new ControlClient(homeAt(home)).request(operation, parameters, signal) as T
}

/**
 * The events of a long operation of the daemon in `home`; throws as `askDaemon` does. Ending the loop, or the signal, stops the operation.
 */
export async function * callDaemon<T> (home: string, operation: OperationName, parameters: object, signal: AbortSignal): AsyncGenerator<T> {
  yield * new ControlClient(homeAt(home)).stream(operation, parameters, signal) as AsyncIterable<T>
}
