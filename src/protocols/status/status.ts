import { create } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import { ControlStream } from '../wire/control.ts'
import { BadMessageError } from '../wire/errors.ts'
import { plainText } from '../wire/text.ts'
import { QuerySchema, ReportSchema } from './status_pb.ts'

/** What a server tells an admitted peer about itself. */
export interface PeerStatus {
  readonly agent: string
  readonly role: string
  readonly device: string
  /** Blocks served: `[first, end)`. */
  readonly blocks: ReadonlyArray<readonly [first: number, end: number]>
  readonly sessions: number
  /** Rounds completed. */
  readonly round: number
  /** Peer ids of a running round. */
  readonly members: readonly string[]
  readonly uptimeMs: number
}

/** A thousand members of 52 characters, and a hundred spans. */
const MAX_REPORT_BYTES = 64 * 2 ** 10
const MAX_MEMBERS = 1000
const MAX_SPANS = 100
const STATUS_TIMEOUT_MS = 10_000

/** Answers one query. */
export async function answerStatus (stream: Stream, status: () => PeerStatus, signal?: AbortSignal): Promise<void> {
  const control = new ControlStream(stream, {
    outgoing: ReportSchema,
    incoming: QuerySchema,
    maxMessageBytes: MAX_REPORT_BYTES,
    timeoutMs: STATUS_TIMEOUT_MS
  })
  try {
    await control.read(signal)
    const { blocks, members, uptimeMs, ...rest } = status()
    await control.write(
      create(ReportSchema, {
        ...rest,
        members: members.slice(0, MAX_MEMBERS),
        blocks: blocks.slice(0, MAX_SPANS).map(([first, end]) => ({ first, end })),
        uptimeMs: BigInt(Math.round(uptimeMs))
      }),
      undefined,
      signal
    )
    await control.close(signal)
  } catch (error) {
    control.abort(error as Error)
    throw error
  }
}

/** Asks a peer for its status. Throws BadMessageError for a report that cannot be, and the wire's errors. */
export async function askStatus (stream: Stream, signal: AbortSignal): Promise<PeerStatus> {
  const control = new ControlStream(stream, {
    outgoing: QuerySchema,
    incoming: ReportSchema,
    maxMessageBytes: MAX_REPORT_BYTES,
    timeoutMs: STATUS_TIMEOUT_MS
  })
  try {
    await control.write(create(QuerySchema), undefined, signal)
    const { message } = await control.read(signal)
    await control.close(signal)
    if (message.blocks.length > MAX_SPANS || message.members.length > MAX_MEMBERS)
      throw new BadMessageError('a status report of absurd length')
    return {
      agent: plainText(message.agent),
      role: plainText(message.role),
      device: plainText(message.device),
      blocks: message.blocks.map(({ first, end }) => [first, end] as const),
      sessions: message.sessions,
      round: message.round,
      members: message.members.map((member) => plainText(member)),
      uptimeMs: Number(message.uptimeMs)
    }
  } catch (error) {
    control.abort(error as Error)
    throw error
  }
}
