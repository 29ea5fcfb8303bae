import type { ControlOptions } from '../wire/control.ts'
import { MAX_MEMBER_MESSAGE_BYTES, MAX_UPDATE_BYTES } from './constants.ts'
import { MemberMessageSchema, UpdateSchema, type MemberMessage, type Update } from './directory_pb.ts'

export const asMember: ControlOptions<MemberMessage, Update> = {
  outgoing: MemberMessageSchema, incoming: UpdateSchema, maxMessageBytes: MAX_MEMBER_MESSAGE_BYTES, maxIncomingBytes: MAX_UPDATE_BYTES
}

export const asHost: ControlOptions<Update, MemberMessage> = {
  outgoing: UpdateSchema, incoming: MemberMessageSchema, maxMessageBytes: MAX_UPDATE_BYTES, maxIncomingBytes: MAX_MEMBER_MESSAGE_BYTES
}
