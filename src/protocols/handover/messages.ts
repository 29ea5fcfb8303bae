import { create } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import type { Channel } from '../wire/channel.ts'
import { GiverMessageSchema, TakerMessageSchema, type GiverMessage, type TakerMessage } from './handover_pb.ts'

export type { GiverMessage, TakerMessage } from './handover_pb.ts'
export { GiverMessageSchema, TakerMessageSchema } from './handover_pb.ts'

/** The side of the server whose hidden states go to the other one. */
export type HandoverGiverChannel = Channel<GiverMessage, TakerMessage>
/** The side of the server that takes them. */
export type HandoverTakerChannel = Channel<TakerMessage, GiverMessage>

/** What the server says that hands over, by kind. */
export function fromGiver (kind: NonNullable<MessageInitShape<typeof GiverMessageSchema>['kind']>): GiverMessage {
  return create(GiverMessageSchema, { kind })
}

/** What the server says that takes, by kind. */
export function fromTaker (kind: NonNullable<MessageInitShape<typeof TakerMessageSchema>['kind']>): TakerMessage {
  return create(TakerMessageSchema, { kind })
}
