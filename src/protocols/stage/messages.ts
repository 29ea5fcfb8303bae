import { create } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import type { Channel } from '../wire/channel.ts'
import { CoordinatorMessageSchema, WorkerMessageSchema, type CoordinatorMessage, type WorkerMessage } from './stage_pb.ts'

export type { CoordinatorMessage, Item, WorkerMessage } from './stage_pb.ts'
export { CoordinatorMessageSchema, WorkerMessageSchema } from './stage_pb.ts'

/** The coordinator's side of a stage stream. */
export type StageCoordinatorChannel = Channel<CoordinatorMessage, WorkerMessage>
/** The worker's side of a stage stream. */
export type StageWorkerChannel = Channel<WorkerMessage, CoordinatorMessage>

/** What a coordinator may ask, by kind. */
export type Question = NonNullable<MessageInitShape<typeof CoordinatorMessageSchema>['kind']>
/** What a worker may answer, by kind. */
export type Answer = NonNullable<MessageInitShape<typeof WorkerMessageSchema>['kind']>

/** What a coordinator asks, by kind. */
export function fromCoordinator (request: number, kind: Question): CoordinatorMessage {
  return create(CoordinatorMessageSchema, { request, kind })
}

/** What a worker answers, by kind. */
export function fromWorker (request: number, kind: Answer): WorkerMessage {
  return create(WorkerMessageSchema, { request, kind })
}
