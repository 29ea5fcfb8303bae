import { checkEvent, parseParameters } from '../../api/check.ts'
import type { EventOf, OfferedOperations, OperationName } from '../../api/operations.ts'

/** Runs an operation that is offered, between its schemas. Throws UsageError for its parameters, and EventSchemaError for its events. */
export async function * runOperation<Name extends OperationName> (
  operations: OfferedOperations,
  name: Name,
  given: unknown,
  signal: AbortSignal
): AsyncGenerator<EventOf<Name>> {
  for await (const event of operations[name]!(parseParameters(name, given), signal)) {
    checkEvent(name, event)
    yield event
  }
}
