import { setTimeout as delay } from 'node:timers/promises'
import { fromServer, type Begin, type ClientMessage, type GenerateServerChannel } from '../../../protocols/generate/messages.ts'
import { MAX_CHAIN_SERVERS } from '../../../protocols/handover/constants.ts'
import { HandoverError, type NeighbourSide } from '../../../protocols/handover/errors.ts'
import { fromGiver, type GiverMessage, type HandoverGiverChannel } from '../../../protocols/handover/messages.ts'
import type { Received } from '../../../protocols/wire/channel.ts'
import { BadMessageError, ChannelClosedError } from '../../../protocols/wire/errors.ts'
import { withSignal } from '../../../protocols/wire/wait.ts'
import type { Tensor } from '../../../tensor.ts'
import type { PlaceFields } from '../checks.ts'
import type { Expected } from './claims.ts'
import type { Handovers, PreviousServer } from './handovers.ts'

/** A client that ends a sequence says goodbye to all of its servers; a neighbour's goodbye may come first by so much. */
const GOODBYE_GRACE_MS = 2_000

/** Hidden states that came, from the client or from the server before. */
export interface Rows extends PlaceFields {
  readonly tensors: readonly Tensor[]
  /** Microseconds of the servers before. */
  readonly stageUs: readonly number[]
}

/** What became of hidden states on this server. */
export interface Outputs {
  readonly hidden: readonly Tensor[]
  /** The rounds whose step was in the adapters; undefined where these changed meanwhile. */
  readonly round: number | undefined
  /** Microseconds of the servers before, and of this one. */
  readonly stageUs: readonly number[]
}

/**
 * Where the hidden states of one sequence come from and go to: the client, or the servers before and after this one. What goes wrong with
 * a neighbour ends the sequence, with a HandoverError that says which of the two it is.
 */
export class SequencePath {
  readonly #channel: GenerateServerChannel
  readonly #ended: AbortController
  readonly #signal: AbortSignal
  #from: { readonly peer: string, readonly expected: Expected<PreviousServer> } | undefined
  #previous: PreviousServer | undefined
  #next: HandoverGiverChannel | undefined
  #upcoming: Promise<Rows> | undefined

  /** `ended` is aborted with what ends the sequence; `signal` aborts then, and when the server stops. */
  constructor (channel: GenerateServerChannel, ended: AbortController, signal: AbortSignal) {
    this.#channel = channel
    this.#ended = ended
    this.#signal = signal
  }

  /** Whether hidden states come from another server or go to one. */
  get handsOver (): boolean {
    return this.#from !== undefined || this.#next !== undefined
  }

  /** Expects the server before this one and reaches the next one, as the client said. Throws HandoverError and BadMessageError. */
  async open ({ to, from }: Pick<Begin, 'to' | 'from'>, handovers: Handovers): Promise<void> {
    if (from !== undefined) this.#from = { peer: from.peer, expected: handovers.expect(from) }
    if (to !== undefined) this.#next = await handovers.open(to, this.#signal)
  }

  /** Waits for the server before this one, once the client knows that the sequence has its place. */
  async begin (): Promise<void> {
    const [next, from, signal] = [this.#next, this.#from, this.#signal]
    if (next !== undefined) {
      const said = next.receive(signal).then(() => { throw new BadMessageError('it answered where nothing was asked') })
      this.#endWith(this.#lost('next', next.remotePeer.toString(), said))
    }
    if (from === undefined) return
    this.#endWith(this.#channel.receive(signal).then(() => { throw new BadMessageError('the hidden states were to come from a server') }))
    this.#previous = await this.#lost('previous', from.peer, withSignal(from.expected.claimed, signal))
  }

  /** Resolves with the next hidden states, and listens for those after them: that is how the end of the sequence is noticed. */
  async receive (): Promise<Rows> {
    if (this.#upcoming === undefined) this.#listen()
    const rows = await this.#upcoming!
    this.#listen()
    return rows
  }

  /** Checks what came. Throws what `check` throws, and HandoverError where it came from a server. */
  checked<Result> (check: () => Result): Result {
    try {
      return check()
    } catch (error) {
      throw this.#from === undefined ? error : new HandoverError('previous', this.#from.peer, error)
    }
  }

  /** Sends on what was computed of the rows that came. */
  async send ({ position, count, contextLength, maskPosition }: Rows, { hidden, round, stageUs }: Outputs): Promise<void> {
    const next = this.#next
    if (next === undefined) {
      const said = { position, stageUs: [...stageUs], ...round === undefined ? {} : { round } }
      await this.#channel.send(fromServer({ case: 'hidden', value: said }), hidden)
      return
    }
    const value = { position, count, contextLength, maskPosition, stageUs: [...stageUs] }
    await this.#lost('next', next.remotePeer.toString(), next.send(fromGiver({ case: 'rows', value }), hidden))
  }

  /** Ends the streams with the servers before and after this one, and tells them why. */
  end (reason: unknown): void {
    const isGoodbye = reason instanceof ChannelClosedError
    for (const neighbour of [this.#previous?.channel, this.#next]) {
      if (isGoodbye) void neighbour?.close().catch(() => {}) // it is closed all the same
      else neighbour?.abort(reason instanceof Error ? reason : new Error(String(reason)))
    }
    this.#from?.expected.cancel()
    void this.#from?.expected.claimed.then((claimant) => { claimant.release() }, () => {}) // nobody came
  }

  #listen (): void {
    const [previous, from, signal] = [this.#previous, this.#from, this.#signal]
    this.#upcoming = previous === undefined || from === undefined
      ? this.#channel.receive(signal).then(rowsOfClient)
      : this.#lost('previous', from.peer, previous.channel.receive(signal).then(rowsOfServer))
    this.#endWith(this.#upcoming)
  }

  /** Ends the sequence with what a promise rejects with. */
  #endWith (promise: Promise<unknown>): void {
    promise.catch((error: unknown) => { this.#ended.abort(error) })
  }

  /** Throws HandoverError where work with a neighbour fails, unless the sequence ends anyway. */
  async #lost<Result> (side: NeighbourSide, peer: string, work: Promise<Result>): Promise<Result> {
    try {
      return await work
    } catch (error) {
      const signal = this.#signal
      if (error instanceof ChannelClosedError) await delay(GOODBYE_GRACE_MS, undefined, { signal }).catch(() => {})
      signal.throwIfAborted()
      throw new HandoverError(side, peer, error)
    }
  }
}

function rowsOfClient ({ message: { kind }, tensors }: Received<ClientMessage>): Rows {
  if (kind.case !== 'rows') throw new BadMessageError('the message is of no known kind')
  return { ...kind.value, tensors, stageUs: [] }
}

function rowsOfServer ({ message: { kind }, tensors }: Received<GiverMessage>): Rows {
  if (kind.case !== 'rows') throw new BadMessageError('the message is of no known kind')
  if (kind.value.stageUs.length >= MAX_CHAIN_SERVERS) throw new BadMessageError(`a chain of more than ${MAX_CHAIN_SERVERS} servers`)
  return { ...kind.value, tensors }
}
