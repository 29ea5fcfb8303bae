import type { z } from 'zod'
import { MidspanError, UsageError } from '../errors.ts'
import type { OperationSchema } from './operation.ts'
import { operations, type EventOf, type OperationName, type ParametersOf } from './operations.ts'

/** Checks the parameters that a caller sent, and fills in defaults. Throws UsageError with the path of the first field that is wrong. */
export function parseParameters<Name extends OperationName> (name: Name, given: unknown): ParametersOf<Name> {
  const parsed = operations[name].parameters.safeParse(given)
  if (parsed.success) return parsed.data as ParametersOf<Name>
  throw new UsageError(`${name}: ${issueText(parsed.error)}`, `see: midspan ${name} --help`, parsed.error)
}

/** Thrown where an event leaves a daemon that its schema does not describe: a defect of the daemon. */
export class EventSchemaError extends Error {
  constructor (name: OperationName, event: unknown, why: string) {
    super(`${name}: the event ${typeOf(event) ?? ''} is not as its schema says: ${why}`)
    this.name = 'EventSchemaError'
  }
}

/** Checks an event before it leaves the daemon. Throws EventSchemaError for an unknown type, a wrong field and an unknown field. */
export function checkEvent<Name extends OperationName> (name: Name, event: EventOf<Name>): void {
  const schema = eventSchema(name, event)
  if (schema === undefined) throw new EventSchemaError(name, event, 'its type is unknown')
  const parsed = schema.safeParse(event)
  if (!parsed.success) throw new EventSchemaError(name, event, issueText(parsed.error))
  const unknown = unknownField(event, parsed.data)
  if (unknown !== undefined) throw new EventSchemaError(name, event, `the field ${unknown} is unknown`)
}

/** Thrown where a daemon of another release answers with events that this one cannot read. */
export class DaemonVersionError extends MidspanError {
  constructor (name: OperationName, why: string) {
    super('E_DAEMON_VERSION', `the daemon's answer to ${name} cannot be read: ${why}`, { next: 'restart the daemon with this release' })
  }
}

/**
 * Reads an event that a daemon sent. A newer daemon may say more: an event of an unknown type is undefined, to be skipped, and unknown
 * fields are left out. Throws DaemonVersionError where a known field is missing or has another type.
 */
export function readEvent<Name extends OperationName> (name: Name, value: unknown): EventOf<Name> | undefined {
  const schema = eventSchema(name, value)
  if (schema === undefined) return undefined
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw new DaemonVersionError(name, issueText(parsed.error))
  return parsed.data as EventOf<Name>
}

/** Whether an event is the last of its operation. */
export function isResult (name: OperationName, event: unknown): boolean {
  return eventSchema(name, event) === operations[name].result
}

function eventSchema (name: OperationName, event: unknown): z.ZodObject | undefined {
  const { progress, result }: OperationSchema = operations[name]
  const type = typeOf(event)
  const known = result.shape.type as z.ZodLiteral | undefined
  if (known === undefined) return type === undefined ? result : undefined
  if (type === undefined) return result // which then says that the type is missing
  if (known.safeParse(type).success) return result
  return Object.hasOwn(progress, type) ? progress[type] : undefined
}

function typeOf (event: unknown): string | undefined {
  if (typeof event !== 'object' || event === null || !('type' in event)) return undefined
  return typeof event.type === 'string' ? event.type : undefined
}

function issueText (error: z.ZodError): string {
  const [issue] = error.issues
  if (issue === undefined) return 'it cannot be read'
  if (issue.code === 'unrecognized_keys') return `${[...issue.path, issue.keys[0]].join('.')}: is not known`
  return issue.path.length === 0 ? issue.message : `${issue.path.join('.')}: ${issue.message}`
}

/** Returns the path of the first field that parsing dropped, or undefined. */
function unknownField (given: unknown, parsed: unknown, path = ''): string | undefined {
  if (typeof given !== 'object' || given === null) return undefined
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined) continue
    const at = path === '' ? key : `${path}.${key}`
    const kept = (parsed as Readonly<Record<string, unknown>>)[key]
    if (kept === undefined) return at
    const inner = unknownField(value, kept, at)
    if (inner !== undefined) return inner
  }
  return undefined
}
