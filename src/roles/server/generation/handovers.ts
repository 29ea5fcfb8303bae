import type { Neighbour } from '../../../protocols/generate/messages.ts'
import { HANDOVER_PROTOCOL } from '../../../protocols/handover/constants.ts'
import { HandoverError } from '../../../protocols/handover/errors.ts'
import {
  fromGiver,
  fromTaker,
  GiverMessageSchema,
  TakerMessageSchema,
  type HandoverGiverChannel,
  type HandoverTakerChannel
} from '../../../protocols/handover/messages.ts'
import { openChannel } from '../../../protocols/wire/channel.ts'
import { BadMessageError } from '../../../protocols/wire/errors.ts'
import { withDeadline } from '../../../protocols/wire/wait.ts'
import type { ServerContext } from '../../context.ts'
import { handoverLimits } from '../../message-limits.ts'
import { Claims, type ClaimsOptions, type Expected } from './claims.ts'

/** How long a server tries to reach the next one. A client gives up the opening of a sequence after 15 s. */
const OPEN_TIMEOUT_MS = 10_000

/** The server before this one, as a session has it that was claimed. */
export interface PreviousServer {
  readonly channel: HandoverTakerChannel
  /** Says that the session needs the channel no longer. */
  release (): void
}

/** How this server hands sequences over to others, and takes them. */
export class Handovers {
  readonly #context: Pick<ServerContext, 'identity' | 'peerId' | 'charter' | 'charterHash' | 'dial' | 'servers'>
  readonly #claims: Claims<PreviousServer>

  constructor (context: Pick<ServerContext, 'identity' | 'peerId' | 'charter' | 'charterHash' | 'dial' | 'servers'>, options?: ClaimsOptions) {
    this.#context = context
    this.#claims = new Claims(options)
  }

  /** Waits for the server before. Throws BadMessageError for a neighbour that cannot be one. */
  expect (neighbour: Neighbour): Expected<PreviousServer> {
    this.#check(neighbour)
    return this.#claims.expect(neighbour.secret, neighbour.peer)
  }

  /** Opens a stream to the next server and claims the session there. The caller closes it. Throws HandoverError, and BadMessageError. */
  async open (neighbour: Neighbour, signal: AbortSignal): Promise<HandoverGiverChannel> {
    this.#check(neighbour)
    const { identity, charter, charterHash, dial, servers } = this.#context
    const next = servers().find(({ peerId }) => peerId.toString() === neighbour.peer)?.peerId
    if (next === undefined) throw new HandoverError('next', 'a server', new BadMessageError('it is not in the directory'))
    let channel: HandoverGiverChannel | undefined
    try {
      return await withDeadline('it did not answer', OPEN_TIMEOUT_MS, signal, async (deadline) => {
        channel = await openChannel(await dial(next, HANDOVER_PROTOCOL, deadline), {
          protocol: HANDOVER_PROTOCOL,
          outgoing: GiverMessageSchema,
          incoming: TakerMessageSchema,
          limits: handoverLimits(charter),
          identity,
          remotePeer: next,
          charter: charterHash,
          idleTimeoutMs: Infinity // nothing comes back
        }, deadline)
        await channel.send(fromGiver({ case: 'claim', value: { secret: neighbour.secret } }), [], deadline)
        const { message: { kind } } = await channel.receive(deadline)
        if (kind.case !== 'claimed') throw new BadMessageError('it answered something else than it was asked')
        return channel
      })
    } catch (error) {
      channel?.abort(error instanceof Error ? error : new Error(String(error)))
      signal.throwIfAborted()
      throw new HandoverError('next', neighbour.peer, error)
    }
  }

  /** Serves the stream of a server that hands a sequence over, until the session that it claimed ends. Throws ClaimError. */
  async serve (channel: HandoverTakerChannel, signal: AbortSignal): Promise<void> {
    const { message: { kind } } = await withDeadline('no claim came', OPEN_TIMEOUT_MS, signal, async (deadline) => await channel.receive(deadline))
    if (kind.case !== 'claim') throw new BadMessageError('a handover begins with Claim')
    const { promise: released, resolve: release } = Promise.withResolvers<void>()
    this.#claims.claim(kind.value.secret, channel.remotePeer.toString(), { channel, release })
    await channel.send(fromTaker({ case: 'claimed', value: {} }))
    await released
    await channel.close()
  }

  #check ({ peer }: Neighbour): void {
    if (peer === this.#context.peerId.toString()) throw new BadMessageError('a server does not hand over to itself')
  }
}
