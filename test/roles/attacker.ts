import type { PrivateKey, Stream } from '@libp2p/interface'
import type { Roles } from '../../src/node/daemon/roles.ts'
import { roles } from '../../src/node/daemon/roles.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { loadIdentity } from '../../src/node/home/identity.ts'
import { GENERATE_PROTOCOL } from '../../src/protocols/generate/constants.ts'
import * as generate from '../../src/protocols/generate/messages.ts'
import { HANDOVER_PROTOCOL } from '../../src/protocols/handover/constants.ts'
import * as handover from '../../src/protocols/handover/messages.ts'
import { TRAIN_PROTOCOL } from '../../src/protocols/train/constants.ts'
import * as train from '../../src/protocols/train/messages.ts'
import { openChannel } from '../../src/protocols/wire/channel.ts'
import { agreeAsClient } from '../../src/protocols/wire/handshake.ts'
import { FrameSealer } from '../../src/protocols/wire/sealer.ts'
import { StreamSink } from '../../src/protocols/wire/sink.ts'
import { StreamSource } from '../../src/protocols/wire/source.ts'
import type { ClientContext } from '../../src/roles/context.ts'
import type { TestFederation } from './helpers.ts'

/** An attacker sends what it likes: its own limits are far above the charter's. */
const limits = { maxMessageBytes: 2 ** 26, maxTensorBytes: 2 ** 28, maxTensors: 2 ** 16 }
const TIMEOUT_MS = 30_000

/** An admitted client that does not play by the rules: it says what a test has it say. */
export class Attacker {
  readonly context: ClientContext
  readonly #identity: PrivateKey

  private constructor (context: ClientContext, identity: PrivateKey) {
    this.context = context
    this.#identity = identity
  }

  static async join (federation: TestFederation, name: string): Promise<Attacker> {
    let seen: ClientContext | undefined
    const idle: Roles = {
      ...roles,
      client: async (context) => {
        seen = context
        return await Promise.resolve({ status: () => ({}), operations: {}, stop: async () => {} })
      }
    }
    const { home } = await federation.join(name, {}, idle)
    return new Attacker(seen!, (await loadIdentity(homeAt(home).identity))!)
  }

  /** A stream that nothing was said on yet. */
  async stream (protocol: string): Promise<Stream> {
    return await this.context.dial(this.context.servers()[0]!.peerId, protocol, AbortSignal.timeout(TIMEOUT_MS))
  }

  async training (): Promise<train.TrainClientChannel> {
    return await openChannel(await this.stream(TRAIN_PROTOCOL), {
      ...this.#parties(TRAIN_PROTOCOL),
      outgoing: train.ClientMessageSchema,
      incoming: train.ServerMessageSchema,
      limits
    }, AbortSignal.timeout(TIMEOUT_MS))
  }

  async generation (): Promise<generate.GenerateClientChannel> {
    return await openChannel(await this.stream(GENERATE_PROTOCOL), {
      ...this.#parties(GENERATE_PROTOCOL),
      outgoing: generate.ClientMessageSchema,
      incoming: generate.ServerMessageSchema,
      limits
    }, AbortSignal.timeout(TIMEOUT_MS))
  }

  async handover (): Promise<handover.HandoverGiverChannel> {
    return await openChannel(await this.stream(HANDOVER_PROTOCOL), {
      ...this.#parties(HANDOVER_PROTOCOL),
      outgoing: handover.GiverMessageSchema,
      incoming: handover.TakerMessageSchema,
      limits
    }, AbortSignal.timeout(TIMEOUT_MS))
  }

  /**
   * Opens a session whose frames carry any bytes, rightly sealed. Resolves when the server has ended the stream: with the bytes of its
   * answer, or with the error that a reset gave.
   */
  async sealed (protocol: string, ...bodies: Uint8Array[]): Promise<number | Error> {
    const stream = await this.stream(protocol)
    const medium = { stream, source: new StreamSource(stream, TIMEOUT_MS), sink: new StreamSink(stream, TIMEOUT_MS) }
    const { sessionId, c2s } = await agreeAsClient(medium, this.#parties(protocol), AbortSignal.timeout(TIMEOUT_MS))
    const sealer = new FrameSealer(c2s, { protocol, sessionId, direction: 'c2s' })
    try {
      for (const body of bodies) for (const record of sealer.seal('message', [body])) stream.send(record)
      let answerBytes = 0
      for await (const chunk of medium.source) answerBytes += chunk.byteLength
      return answerBytes
    } catch (error) {
      return error as Error
    } finally {
      // The server keeps a refused stream for a while, so that the refusal can be read, and a client may have only few streams.
      stream.abort(new Error('the answer is read'))
    }
  }

  #parties (protocol: string) {
    return { protocol, identity: this.#identity, remotePeer: this.context.servers()[0]!.peerId, charter: this.context.charterHash }
  }
}

/** What the peer ended a session with. */
export async function refusalOf (channel: { receive (signal?: AbortSignal): Promise<unknown> }): Promise<string> {
  try {
    for (;;) await channel.receive(AbortSignal.timeout(TIMEOUT_MS))
  } catch (error) {
    return (error as { code?: string }).code ?? String(error)
  }
}
