import { create } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import { concat } from 'uint8arrays/concat'
import { MAX_CHARTER_BYTES } from '../charter/constants.ts'
import { ControlStream } from '../wire/control.ts'
import { BadMessageError } from '../wire/errors.ts'
import { remoteErrorOf } from '../wire/failure.ts'
import { plainText } from '../wire/text.ts'
import { FailureSchema } from '../wire/wire_pb.ts'
import { clockDifference } from './clock.ts'
import { isRefusalCode, RefusedError, REFUSALS } from './errors.ts'
import type { Answer, Hello } from './hello_pb.ts'
import { asGreeter, helloOf } from './messages.ts'

export interface Greeting {
  readonly agent: string
  readonly role: 'client' | 'server'
  /** The hash of the charter this peer has pinned; without one the host sends its charter. */
  readonly federation?: Uint8Array | undefined
  readonly invite?: Uint8Array | undefined
  /** The founder's certificate, for a server that did not admit this peer itself. */
  readonly certificate?: Uint8Array | undefined
  /** Who leads, as far as this peer knows: a signed record. */
  readonly lead?: Uint8Array | undefined
  /** Give the place in the federation back. */
  readonly leaving?: boolean
}

export interface Welcomed {
  readonly agent: string
  readonly role: string
  /** The signed charter, not verified; undefined for a peer that has pinned one. */
  readonly charter: Uint8Array | undefined
  /** The time by the host's clock, in milliseconds since 1970, where the host says it. */
  readonly timeMs: number | undefined
  /** Who leads, as the host says: a signed record, not verified; undefined while the founder does. */
  readonly lead?: Uint8Array | undefined
}

/**
 * Says hello on a new stream. Throws RefusedError when the host does not let this peer in, BadMessageError for an answer that makes no
 * sense, and the wire's errors.
 */
export async function sayHello (stream: Stream, greeting: Greeting, signal: AbortSignal): Promise<Welcomed> {
  const control = new ControlStream(stream, asGreeter)
  try {
    await control.write(helloOf(greeting), undefined, signal)
    const { message } = await control.read(signal)
    const welcome = welcomeIn(message)
    const charter = greeting.federation === undefined && greeting.leaving !== true
      ? await readCharter(control, welcome.charterLength, signal)
      : undefined
    await control.close(signal)
    const lead = welcome.lead.byteLength === 0 ? undefined : welcome.lead
    return { agent: plainText(welcome.agent), role: plainText(welcome.role), charter, timeMs: numberOf(welcome.timeMs), lead }
  } catch (error) {
    control.abort(error as Error)
    throw error
  }
}

function welcomeIn ({ answer }: Answer) {
  if (answer.case === 'welcome') return answer.value
  if (answer.case !== 'refusal') throw new BadMessageError('an answer to a hello that is neither a welcome nor a refusal')
  const { code, field, message, timeMs } = answer.value
  if (!isRefusalCode(code)) throw remoteErrorOf(create(FailureSchema, { code, message }))
  const isExpiry = code === REFUSALS.inviteExpired || code === REFUSALS.certificateExpired
  const clock = isExpiry ? clockDifference(numberOf(timeMs), Date.now()) : undefined
  throw new RefusedError(code, plainText(field), `${plainText(message)}${clock === undefined ? '' : `; ${clock}, which decides`}`)
}

function numberOf (value: bigint | undefined): number | undefined {
  return value === undefined ? undefined : Number(value)
}

async function readCharter (control: ControlStream<Hello, Answer>, length: number, signal: AbortSignal): Promise<Uint8Array> {
  if (length === 0 || length > MAX_CHARTER_BYTES) throw new BadMessageError(`a charter of ${length} bytes`)
  const parts: Uint8Array[] = []
  for (let bytes = 0; bytes < length;) {
    const { payload } = await control.read(signal)
    bytes += payload.byteLength
    if (payload.byteLength === 0 || bytes > length) throw new BadMessageError('a charter of another length than announced')
    parts.push(payload)
  }
  return concat(parts)
}
