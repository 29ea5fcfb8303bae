import type { z } from 'zod'
import { auditSweep } from './audit-sweep.ts'
import { audit } from './audit.ts'
import { entrust } from './entrust.ts'
import { evaluateTask } from './evaluate-task.ts'
import { evaluate } from './evaluate.ts'
import { exportTrained } from './export.ts'
import { generate } from './generate.ts'
import { invite } from './invite.ts'
import { invites } from './invites.ts'
import { leave } from './leave.ts'
import type { OperationSchema } from './operation.ts'
import { partition } from './partition.ts'
import { peers } from './peers.ts'
import { preview } from './preview.ts'
import { privacy } from './privacy.ts'
import { remove } from './remove.ts'
import { revoke } from './revoke.ts'
import { servers } from './servers.ts'
import { status } from './status.ts'
import { train } from './train.ts'

/** Every operation that a daemon may offer, by name. */
export const operations = {
  status,
  peers,
  servers,
  invite,
  invites,
  revoke,
  partition,
  leave,
  remove,
  entrust,
  preview,
  privacy,
  audit,
  auditSweep,
  train,
  evaluate,
  evaluateTask,
  generate,
  export: exportTrained
} as const

export type OperationName = keyof typeof operations

type Schema<Name extends OperationName> = typeof operations[Name]

/** Parameters as an operation gets them: checked, with defaults. */
export type ParametersOf<Name extends OperationName> = z.output<Schema<Name>['parameters']>

/** Parameters as a caller may give them: what has a default may be absent. */
export type GivenParameters<Name extends OperationName> = z.input<Schema<Name>['parameters']>

/** The last event of an operation. */
export type ResultOf<Name extends OperationName> = z.output<Schema<Name>['result']>

/** An event before the result. */
export type ProgressOf<Name extends OperationName> = z.output<Schema<Name>['progress'][keyof Schema<Name>['progress']]>

export type EventOf<Name extends OperationName> = ProgressOf<Name> | ResultOf<Name>

/** An operation at work: its events, in order. It ends early when the signal says so. */
export type Operation<Name extends OperationName> = (parameters: ParametersOf<Name>, signal: AbortSignal) => AsyncIterable<EventOf<Name>>

/** The operations that one peer offers. */
export type OfferedOperations = { readonly [Name in OperationName]?: Operation<Name> }

/** Returns an operation's schema by its name, as text of somebody else's; undefined where there is none. */
export function schemaOf (name: string): OperationSchema | undefined {
  return Object.hasOwn(operations, name) ? operations[name as OperationName] : undefined
}
