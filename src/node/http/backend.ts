import type { EventOf, GivenParameters, OfferedOperations, OperationName } from '../../api/operations.ts'
import { runOperation } from '../control/run-operation.ts'

/** Whoever does the work: the daemon of this process, or one that is asked over its control socket (`ControlClient`). */
export interface Backend {
  /** Yields the events of an operation. Ending the loop, or the signal, stops the operation. */
  stream<Name extends OperationName> (operation: Name, parameters: GivenParameters<Name>, signal: AbortSignal): AsyncIterable<EventOf<Name>>
}

/** Returns a backend for the operations of this process, which are checked as those of others are. */
export function localBackend (operations: OfferedOperations): Backend {
  return { stream: (operation, parameters, signal) => runOperation(operations, operation, parameters, signal) }
}

/** Returns a backend that has these words withheld from every text that it generates; the backend itself without rules. */
export function withholdingBackend (backend: Backend, withhold: string | undefined): Backend {
  if (withhold === undefined) return backend
  return {
    stream: (operation, parameters, signal) =>
      backend.stream(operation, operation === 'generate' ? { ...parameters, withhold } : parameters, signal)
  }
}
