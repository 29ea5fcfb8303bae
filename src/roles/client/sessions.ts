import type { Message } from '@bufbuild/protobuf'
import { MidspanError } from '../../errors.ts'
import { openChannel, type Channel, type ChannelOptions } from '../../protocols/wire/channel.ts'
import type { ClientContext } from '../context.ts'

/** Thrown when no server of the federation can be reached. */
export class NoServerError extends MidspanError {
  constructor (cause?: unknown) {
    super('E_NO_SERVER', 'no server of the federation can be reached', {
      next: 'see `midspan peers`; the daemon keeps trying', ...(cause === undefined ? {} : { cause })
    })
  }
}

/** Failures after which the same work can be tried again on a new stream: the connection's, not the work's. */
const TRANSIENT_CODES = new Set([
  'E_NO_SERVER',
  'E_CHANNEL_CLOSED',
  'E_CHANNEL_RESET',
  'E_CHANNEL_TIMEOUT',
  'E_FRAME_TRUNCATED',
  'E_STOPPING',
  'E_UNREACHABLE'
])

/** Whether a failure may pass by itself. libp2p's own errors are all about connections. */
export function isTransient (error: unknown): boolean {
  if (error instanceof MidspanError) return TRANSIENT_CODES.has(error.code)
  return error instanceof Error && error.name !== 'AbortError' && !(error instanceof TypeError) && !(error instanceof RangeError)
}

/** Opens a sealed session with the first server that answers, one that is connected before one that is not. */
export async function openSession<Out extends Message, In extends Message> (
  context: ClientContext,
  options: Pick<ChannelOptions<Out, In>, 'protocol' | 'outgoing' | 'incoming' | 'limits'>,
  signal: AbortSignal
): Promise<Channel<Out, In>> {
  const servers = context.servers().sort((a, b) => Number(b.connected) - Number(a.connected))
  let cause: unknown
  for (const { peerId } of servers) {
    try {
      const stream = await context.dial(peerId, options.protocol, signal)
      return await openChannel(stream, { ...options, identity: context.identity, remotePeer: peerId, charter: context.charterHash }, signal)
    } catch (error) {
      signal.throwIfAborted()
      if (!isTransient(error)) throw error
      cause = error
    }
  }
  throw new NoServerError(cause)
}
