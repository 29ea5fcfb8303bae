import { create } from '@bufbuild/protobuf'
import type { PeerId, Stream } from '@libp2p/interface'
import { toString } from 'uint8arrays/to-string'
import { FEDERATION_ID_BYTES } from '../charter/constants.ts'
import type { SignedCharter } from '../charter/signed.ts'
import { MAX_CONTROL_PAYLOAD_BYTES } from '../wire/constants.ts'
import { ControlStream } from '../wire/control.ts'
import { plainText } from '../wire/text.ts'
import type { Candidate, Gatekeeper } from './admission.ts'
import { RefusedError, REFUSALS } from './errors.ts'
import { AnswerSchema, type Answer, type Hello } from './hello_pb.ts'
import { type InvitedRole, verifyInvite } from './invite.ts'
import { asHost } from './messages.ts'
import { AttemptLimit } from './rate.ts'

export interface HelloHostOptions {
  readonly agent: string
  readonly charter: SignedCharter
  readonly admission: Gatekeeper
  /** Keeps what the admission decided; a peer is welcomed only after this resolved. */
  readonly persist: () => Promise<void>
  /** Called before the welcome is sent: from now on the peer may use the other protocols. */
  readonly welcomed: (peer: PeerId, role: InvitedRole, agent: string) => void
  /** Called when the peer gave its place back, or lost it. */
  readonly left: (peer: PeerId) => void
  /** Resolves to the role that the peer's node advertises by identify, or to `none`. */
  readonly advertised: (peer: PeerId) => Promise<string>
  /** Who leads, as far as this server knows: a signed record. */
  readonly lead?: () => Uint8Array | undefined
  /** Called with the signed record of who leads, not verified, that an admitted peer sent. */
  readonly heard?: (lead: Uint8Array) => void
  /** The time, in milliseconds since 1970; the system's clock unless given. */
  readonly now?: () => number
}

/** A peer says hello once a connection; more than this in a minute is a fault or an attack. */
const MAX_HELLOS_PER_MINUTE = 10

/** Hellos a minute from one address by peers that have no place: peer ids cost nothing, addresses do. */
const MAX_STRANGERS_HELLOS_PER_MINUTE = 60
const MINUTE_MS = 60_000

/** Answers hellos: checks the invite, asks the admission policy, and welcomes or refuses. */
export class HelloHost {
  readonly #options: HelloHostOptions
  readonly #attempts = new AttemptLimit(MAX_HELLOS_PER_MINUTE, MINUTE_MS)
  readonly #strangersAttempts = new AttemptLimit(MAX_STRANGERS_HELLOS_PER_MINUTE, MINUTE_MS)
  /** Whether a change was made that could not be kept: it is kept with the next hello. */
  #unsaved = false

  constructor (options: HelloHostOptions) {
    this.#options = options
  }

  /**
   * Answers one hello of a peer, which came from `address` as far as attempts are counted. Resolves to whether the peer may stay
   * connected; throws the wire's errors.
   */
  async answer (stream: Stream, peer: PeerId, address: string, signal?: AbortSignal): Promise<boolean> {
    const control = new ControlStream(stream, asHost)
    try {
      this.#checkAttempts(peer, address)
      const { message: hello } = await control.read(signal)
      await (hello.leaving ? this.#goodbye(control, peer, signal) : this.#welcome(control, peer, hello, signal))
      await control.close(signal)
      return !hello.leaving
    } catch (error) {
      if (!(error instanceof RefusedError)) {
        control.abort(error as Error)
        throw error
      }
      await control.write(this.#refusal(error), undefined, signal)
      await control.close(signal)
      return false
    }
  }

  #checkAttempts (peer: PeerId, address: string): void {
    if (!this.#attempts.allow(peer.toString())) throw new RefusedError(REFUSALS.tooOften, 'hello', 'this peer said hello too often')
    if (!this.#options.admission.has(peer.toString()) && !this.#strangersAttempts.allow(address))
      throw new RefusedError(REFUSALS.tooOften, 'hello', 'too many peers said hello from this address')
  }

  async #welcome (control: ControlStream<Answer, Hello>, peer: PeerId, hello: Hello, signal: AbortSignal | undefined): Promise<void> {
    const { charter, admission, welcomed } = this.#options
    const candidate = await candidateOf(peer, hello)
    checkAdvertised(hello.role, await this.#options.advertised(peer))
    const { role, changed } = await admission.admit(candidate)
    if (changed || this.#unsaved) await this.#save()
    welcomed(peer, role, plainText(hello.agent))
    if (hello.lead.byteLength > 0) this.#options.heard?.(hello.lead)
    const bytes = candidate.federation === undefined ? charter.bytes : new Uint8Array(0)
    await control.write(this.#welcomeMessage(bytes.byteLength), undefined, signal)
    for (let at = 0; at < bytes.byteLength; at += MAX_CONTROL_PAYLOAD_BYTES) {
      await control.write(create(AnswerSchema), bytes.subarray(at, at + MAX_CONTROL_PAYLOAD_BYTES), signal)
    }
  }

  /** Takes a peer's place away, as the operator asked. Resolves to whether it had one. */
  async remove (peer: PeerId): Promise<boolean> {
    return await this.#end(peer, this.#options.admission.remove(peer.toString()))
  }

  async #goodbye (control: ControlStream<Answer, Hello>, peer: PeerId, signal: AbortSignal | undefined): Promise<void> {
    await this.#end(peer, this.#options.admission.leave(peer.toString()))
    await control.write(this.#welcomeMessage(0), undefined, signal)
  }

  async #end (peer: PeerId, had: boolean): Promise<boolean> {
    if (had) await this.#save()
    this.#options.left(peer)
    return had
  }

  async #save (): Promise<void> {
    try {
      await this.#options.persist()
    } catch (error) {
      this.#unsaved = true
      throw error
    }
    this.#unsaved = false
  }

  #welcomeMessage (charterLength: number): Answer {
    const { agent, lead } = this.#options
    return create(AnswerSchema, {
      answer: {
        case: 'welcome',
        value: { agent, role: 'server', charterLength, timeMs: this.#timeMs, lead: lead?.() ?? new Uint8Array(0) }
      }
    })
  }

  #refusal ({ code, field, message }: RefusedError): Answer {
    return create(AnswerSchema, { answer: { case: 'refusal', value: { code, field, message, timeMs: this.#timeMs } } })
  }

  get #timeMs (): bigint {
    return BigInt(this.#options.now?.() ?? Date.now())
  }
}

async function candidateOf (peer: PeerId, hello: Hello): Promise<Candidate> {
  const { federation, invite, certificate } = hello
  if (federation.byteLength !== 0 && federation.byteLength !== FEDERATION_ID_BYTES)
    throw new RefusedError(REFUSALS.badHello, 'federation', 'the federation is not a SHA-256')
  return {
    peer: peer.toString(),
    role: hello.role,
    federation: federation.byteLength === 0 ? undefined : toString(federation, 'hex'),
    protocols: hello.protocols,
    invite: invite.byteLength === 0 ? undefined : await verifyInvite(invite),
    certificate: certificate.byteLength === 0 ? undefined : certificate
  }
}

/** Throws RefusedError where a peer asks for a role that its node does not advertise: others could not tell what it is. */
function checkAdvertised (role: string, advertised: string): void {
  if (role === advertised || (role !== 'client' && role !== 'server')) return
  throw new RefusedError(
    REFUSALS.role,
    'identify',
    advertised === 'none'
      ? `this peer asks to be a ${role}, and its node does not advertise /midspan/role/${role}/1.0.0 by identify`
      : `this peer asks to be a ${role}, and its node advertises the role ${advertised}`
  )
}
