import { create } from '@bufbuild/protobuf'
import type { Stream } from '@libp2p/interface'
import { MAX_CONTROL_PAYLOAD_BYTES } from '../wire/constants.ts'
import { ControlStream } from '../wire/control.ts'
import { ChannelClosedError } from '../wire/errors.ts'
import { asServer, BusyError, kinds, NotServedError, type PieceKind } from './messages.ts'
import { type Part, PartSchema, type Request } from './weights_pb.ts'

/** Where the bytes of a model's files and tensors are read from. */
export interface WeightSource {
  /** Size in bytes. Called for allowed names only. */
  sizeOf (kind: PieceKind, name: string): number
  /** `length` bytes from `offset`; within the size. */
  read (kind: PieceKind, name: string, offset: number, length: number, signal?: AbortSignal): Promise<Uint8Array>
}

/** What may leave the server: everything else is refused. */
export interface Servable {
  readonly files: ReadonlySet<string>
  readonly tensors: ReadonlySet<string>
}

/** Each stream holds about two chunks of memory and one read of the disk at a time. */
const MAX_STREAMS = 16

/** Serves the parts of a model that clients may have. */
export class WeightsService {
  readonly #source: WeightSource
  readonly #servable: Servable
  #streams = 0

  constructor (source: WeightSource, servable: Servable) {
    this.#source = source
    this.#servable = servable
  }

  /** Answers the requests of one stream until its peer closes it. Throws NotServedError, BusyError and the wire's errors after telling the peer. */
  async serve (stream: Stream, signal?: AbortSignal): Promise<void> {
    const control = new ControlStream(stream, asServer)
    this.#streams++
    try {
      if (this.#streams > MAX_STREAMS) throw new BusyError()
      for (;;) {
        const request = await readRequest(control, signal)
        if (request === undefined) break
        await this.#send(control, request, signal)
      }
      await control.close(signal)
    } catch (error) {
      control.abort(error as Error)
      throw error
    } finally {
      this.#streams--
    }
  }

  async #send (control: ControlStream<Part, Request>, request: Request, signal: AbortSignal | undefined): Promise<void> {
    const kind = this.#kindOf(request)
    const size = this.#source.sizeOf(kind, request.name)
    let offset = Number(request.offset)
    if (offset > size) throw new NotServedError(`byte ${request.offset} of ${request.name}, which has ${size},`)
    do {
      const bytes = await this.#source.read(kind, request.name, offset, Math.min(MAX_CONTROL_PAYLOAD_BYTES, size - offset), signal)
      await control.write(create(PartSchema, { offset: BigInt(offset), size: BigInt(size) }), bytes, signal)
      offset += bytes.byteLength
    } while (offset < size)
  }

  #kindOf ({ kind, name }: Request): PieceKind {
    const known = kinds[kind]
    if (known === undefined || !this.#servable[`${known}s`].has(name)) throw new NotServedError(`${known ?? 'what was asked for'} ${JSON.stringify(name.slice(0, 100))}`)
    return known
  }
}

async function readRequest (control: ControlStream<Part, Request>, signal: AbortSignal | undefined): Promise<Request | undefined> {
  try {
    return (await control.read(signal)).message
  } catch (error) {
    if (error instanceof ChannelClosedError) return undefined
    throw error
  }
}
