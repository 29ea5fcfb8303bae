import { create } from '@bufbuild/protobuf'
import { PROTOCOL_VERSIONS } from '../charter/constants.ts'
import { MAX_CONTROL_PAYLOAD_BYTES } from '../wire/constants.ts'
import type { ControlOptions } from '../wire/control.ts'
import { type Answer, AnswerSchema, type Hello, HelloSchema } from './hello_pb.ts'

/** A hello is an invite and a dozen versions. */
const MAX_HELLO_BYTES = 16 * 2 ** 10

/** A peer that means to talk does so at once; one that does not holds a stream no longer than this. */
const HELLO_TIMEOUT_MS = 20_000

export const asGreeter: ControlOptions<Hello, Answer> = {
  outgoing: HelloSchema,
  incoming: AnswerSchema,
  maxMessageBytes: MAX_HELLO_BYTES,
  maxPayloadBytes: MAX_CONTROL_PAYLOAD_BYTES,
  timeoutMs: HELLO_TIMEOUT_MS
}

export const asHost: ControlOptions<Answer, Hello> = {
  outgoing: AnswerSchema,
  incoming: HelloSchema,
  maxMessageBytes: MAX_HELLO_BYTES,
  maxPayloadBytes: MAX_CONTROL_PAYLOAD_BYTES,
  timeoutMs: HELLO_TIMEOUT_MS
}

/** A hello of this release. */
export function helloOf (
  fields: {
    agent: string,
    role: string,
    federation?: Uint8Array | undefined,
    invite?: Uint8Array | undefined,
    certificate?: Uint8Array | undefined,
    lead?: Uint8Array | undefined,
    leaving?: boolean
  }
): Hello {
  return create(HelloSchema, {
    agent: fields.agent,
    role: fields.role,
    protocols: { ...PROTOCOL_VERSIONS },
    federation: fields.federation ?? new Uint8Array(0),
    invite: fields.invite ?? new Uint8Array(0),
    certificate: fields.certificate ?? new Uint8Array(0),
    lead: fields.lead ?? new Uint8Array(0),
    leaving: fields.leaving ?? false
  })
}
