import { create } from '@bufbuild/protobuf'
import type { MessageInitShape } from '@bufbuild/protobuf'
import type { Channel } from '../wire/channel.ts'
import { ClientMessageSchema, ServerMessageSchema, type ClientMessage, type ServerMessage } from './generate_pb.ts'

export type { Begin, ClientMessage, Hidden, Neighbour, ServerMessage } from './generate_pb.ts'
export { ClientMessageSchema, ServerMessageSchema } from './generate_pb.ts'

/** The server's side of a generation stream. */
export type GenerateServerChannel = Channel<ServerMessage, ClientMessage>
/** The client's side of a generation stream. */
export type GenerateClientChannel = Channel<ClientMessage, ServerMessage>

/** What a client says, by kind. */
export function fromClient (kind: NonNullable<MessageInitShape<typeof ClientMessageSchema>['kind']>): ClientMessage {
  return create(ClientMessageSchema, { kind })
}

/** What a server says, by kind. */
export function fromServer (kind: NonNullable<MessageInitShape<typeof ServerMessageSchema>['kind']>): ServerMessage {
  return create(ServerMessageSchema, { kind })
}
