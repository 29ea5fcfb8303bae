import { once } from 'node:events'
import { type IncomingMessage, request as httpRequest } from 'node:http'
import { isResult, readEvent } from '../../api/check.ts'
import type { EventOf, GivenParameters, OperationName, ResultOf } from '../../api/operations.ts'
import { MidspanError, UsageError } from '../../errors.ts'
import type { Home } from '../home/home.ts'
import { CONTROL_PREFIX, DaemonError, isErrorLine } from './messages.ts'
import { openControlAddress, type ControlAddress } from './socket-path.ts'

/** No daemon runs in the home. */
export class NoDaemonError extends MidspanError {
  static readonly code = 'E_NO_DAEMON'

  constructor (root: string, cause?: unknown) {
    super(NoDaemonError.code, `no daemon runs in ${root}`, { next: `start it with: midspan daemon --home ${root}`, cause })
  }
}

/** The daemon went away in the middle of an answer. */
export class DaemonGoneError extends MidspanError {
  static readonly code = 'E_DAEMON_GONE'

  constructor (root: string, cause?: unknown) {
    super(DaemonGoneError.code, `the daemon in ${root} ended before its answer did`, { next: `its log is ${root}/daemon.log`, cause })
  }
}

/** Asks the daemon of a home. */
export class ControlClient {
  readonly #home: Home

  constructor (home: Home) {
    this.#home = home
  }

  /**
   * Returns the result of an operation: its last event.
   * Throws NoDaemonError, DaemonGoneError, DaemonVersionError, or DaemonError with the code of what went wrong in the daemon.
   */
  async request<Name extends OperationName> (
    operation: Name,
    parameters: GivenParameters<Name>,
    signal: AbortSignal
  ): Promise<ResultOf<Name>> {
    let result: ResultOf<Name> | undefined
    for await (const event of this.stream(operation, parameters, signal)) {
      if (isResult(operation, event)) result = event as ResultOf<Name>
    }
    if (result === undefined) throw new DaemonGoneError(this.#home.root)
    return result
  }

  /**
   * Yields the events of an operation; throws as `request` does. Ending the loop, or the signal, stops the operation.
   * Events of a type that this release does not know are left out: a newer daemon may say more.
   */
  async * stream<Name extends OperationName> (
    operation: Name,
    parameters: GivenParameters<Name>,
    signal: AbortSignal
  ): AsyncGenerator<EventOf<Name>> {
    signal.throwIfAborted()
    const response = await this.#send(operation, parameters, signal)
    try {
      for await (const line of linesOf(response)) {
        const value = JSON.parse(line) as unknown
        if (isErrorLine(value)) throw new DaemonError(value.error.code, value.error.message, { next: value.error.next })
        const event = readEvent(operation, value)
        if (event !== undefined) yield event
      }
      signal.throwIfAborted()
      if (!response.complete) throw new DaemonGoneError(this.#home.root)
    } catch (error) {
      signal.throwIfAborted()
      throw error instanceof MidspanError ? error : new DaemonGoneError(this.#home.root, error)
    } finally {
      response.destroy()
    }
  }

  async #send (operation: string, parameters: object, signal: AbortSignal): Promise<IncomingMessage> {
    let address: ControlAddress | undefined
    try {
      address = await openControlAddress(this.#home)
      const request = httpRequest({
        socketPath: address.path,
        path: CONTROL_PREFIX + operation,
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        signal,
        agent: false
      })
      request.on('error', () => {}) // told by what is waited for: the response, and then the end of its lines
      request.end(JSON.stringify(parameters))
      const [response] = await once(request, 'response') as [IncomingMessage]
      response.on('error', () => {}) // told by the end of the lines
      return response
    } catch (error) {
      signal.throwIfAborted()
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ECONNREFUSED') throw new NoDaemonError(this.#home.root, error)
      if (code === 'EACCES' || code === 'EPERM')
        throw new UsageError(`${this.#home.root} is another user's`, 'run this as the user that runs its daemon', error)
      throw new DaemonGoneError(this.#home.root, error)
    } finally {
      await address?.release()
    }
  }
}

/** Splits at line feeds alone: readline would also split at U+2028, which JSON texts may hold. */
async function * linesOf (response: IncomingMessage): AsyncGenerator<string> {
  let rest = ''
  for await (const text of response.setEncoding('utf8') as AsyncIterable<string>) {
    const lines = (rest + text).split('\n')
    rest = lines.pop() ?? ''
    yield * lines
  }
}
