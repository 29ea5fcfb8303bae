import { create } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import { MAX_CONTROL_PAYLOAD_BYTES } from '../wire/constants.ts'
import { ControlStream } from '../wire/control.ts'
import { ChannelClosedError } from '../wire/errors.ts'
import { asServer, BusyError, kinds, NotServedError, type PieceKind, UnreadableError } from './messages.ts'
import { type Part, PartSchema, type Request } from './weights_pb.ts'

/** Where the bytes of a model's files and tensors are read from. */
export interface WeightSource {
  /** Size in bytes. Called for allowed names only. */
  sizeOf (kind: PieceKind, name: string): number
  /** `length` bytes from `offset`; within the size. */
  read (kind: PieceKind, name: string, offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>
}

/** What may leave the server for one peer: everything else is refused. */
export interface Servable {
  readonly files: ReadonlySet<string>
  readonly tensors: ReadonlySet<string>
}

/** Each stream holds about two chunks of memory and one read of the disk at a time. */
const MAX_STREAMS = 16

/** A peer fetches over one stream, and for a moment two when it comes back before its old one is known to be broken. */
const MAX_STREAMS_PER_PEER = 2

/** Serves the parts of a model that members may have. */
export class WeightsService {
  readonly #source: WeightSource
  readonly #servableTo: (peer: string) => Servable
  /** Open streams, by peer id. */
  readonly #streams = new Map<string, number>()

  /** `servableTo` says what a peer, by its id, may have. */
  constructor (source: WeightSource, servableTo: (peer: string) => Servable) {
    this.#source = source
    this.#servableTo = servableTo
  }

  /**
   * Answers the requests of one of a peer's streams until it closes it.
   * Throws NotServedError, BusyError, UnreadableError and the wire's errors after telling the peer.
   */
  async serve (stream: Stream, peer: string, signal?: AbortSignal): Promise<void> {
    const control = new ControlStream(stream, asServer)
    const mine = this.#count(peer, 1)
    const servable = this.#servableTo(peer)
    try {
      if (mine > MAX_STREAMS_PER_PEER || this.#all() > MAX_STREAMS) throw new BusyError()
      for (;;) {
        const request = await readRequest(control, signal)
        if (request === undefined) break
        await this.#send(control, request, servable, signal)
      }
      await control.close(signal)
    } catch (error) {
      control.abort(error as Error)
      throw error
    } finally {
      this.#count(peer, -1)
    }
  }

  #count (peer: string, change: number): number {
    const streams = (this.#streams.get(peer) ?? 0) + change
    if (streams === 0) this.#streams.delete(peer)
    else this.#streams.set(peer, streams)
    return streams
  }

  #all (): number {
    return this.#streams.values().reduce((sum, streams) => sum + streams, 0)
  }

  async #send (
    control: ControlStream<Part, Request>,
    request: Request,
    servable: Servable,
    signal: AbortSignal | undefined
  ): Promise<void> {
    const kind = kindOf(request, servable)
    const size = this.#source.sizeOf(kind, request.name)
    let offset = Number(request.offset)
    if (offset > size) throw new NotServedError(`byte ${request.offset} of ${request.name}, which has ${size},`)
    do {
      const bytes = await this.#read(kind, request.name, offset, Math.min(MAX_CONTROL_PAYLOAD_BYTES, size - offset), signal)
      await control.write(create(PartSchema, { offset: BigInt(offset), size: BigInt(size) }), bytes, signal)
      offset += bytes.byteLength
    } while (offset < size)
  }

  /** What the disk says names the server's own paths: the peer is told no more than that. */
  async #read (kind: PieceKind, name: string, offset: number, length: number, signal: AbortSignal | undefined): Promise<Uint8Array> {
    try {
      return await this.#source.read(kind, name, offset, length, signal)
    } catch (error) {
      throw new UnreadableError(name, error)
    }
  }
}

function kindOf ({ kind, name }: Request, servable: Servable): PieceKind {
  const known = kinds[kind]
  if (known === undefined || !servable[`${known}s`].has(name))
    throw new NotServedError(`${known ?? 'what was asked for'} ${JSON.stringify(name.slice(0, 100))}`)
  return known
}

async function readRequest (control: ControlStream<Part, Request>, signal: AbortSignal | undefined): Promise<Request | undefined> {
  try {
    return (await control.read(signal)).message
  } catch (error) {
    if (error instanceof ChannelClosedError) return undefined
    throw error
  }
}
