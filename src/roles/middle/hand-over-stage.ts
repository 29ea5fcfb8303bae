import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { isDefect, isRetryable, MidspanError } from '../../errors.ts'
import { fromClient, type GenerateClientChannel, type ServerMessage } from '../../protocols/generate/messages.ts'
import { SECRET_BYTES } from '../../protocols/handover/constants.ts'
import { HandoverError, neighbourAtFault } from '../../protocols/handover/errors.ts'
import type { Received } from '../../protocols/wire/channel.ts'
import { BadMessageError, ChannelClosedError, ChannelTimeoutError } from '../../protocols/wire/errors.ts'
import { checkHiddenStates } from '../../protocols/wire/hidden-states.ts'
import { withSignal } from '../../protocols/wire/wait.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import { chainName } from './chain-name.ts'
import { contextFields, serverMsOf, type HiddenFormat } from './remote-stage.ts'
import { StageError } from './route-cache.ts'
import { checkPosition, tokensOf, type CachedHiddenStates, type CachePart, type Stage, type StageCache } from './stage.ts'

/** A server of a chain. */
export interface ChainServer {
  /** Its peer id. */
  readonly server: string
  /** The blocks that it computes. */
  readonly span: Span
  /** Opens a sealed session for one sequence, in which nothing has to come. The stage closes it. */
  readonly openGeneration: (signal?: AbortSignal) => Promise<GenerateClientChannel>
}

export interface ChainSettings {
  readonly format: HiddenFormat
  /** Rounds whose steps are in this client's own adapters. */
  readonly round: number
  /** Whether sequences are some of many for which nobody waits: those of others come first. */
  readonly isBatch?: boolean
}

/**
 * How long it is waited for a server to fail by itself, after another one said that it lost it: a server that was killed is found by the
 * others and by this client at about the same time.
 */
const FAULT_GRACE_MS = 300

/** How long a server may take to agree on a session when it is asked whether it lives: three round trips, and no work for its device. */
const PROBE_TIMEOUT_MS = 2_000

/**
 * Consecutive servers as one stage: this client sends hidden states to the first, each hands its own over to the next, and the last one's
 * come back. Throws StageError, which names the one server that failed, or a pair of neighbours that cannot hand over.
 */
export class HandOverStage implements Pick<Stage, 'openCache'> {
  readonly #servers: readonly ChainServer[]
  readonly #settings: ChainSettings

  /** Takes the servers in the order of their blocks, two at least. */
  constructor (servers: readonly ChainServer[], settings: ChainSettings) {
    this.#servers = servers
    this.#settings = settings
  }

  /** Opens a session on each server for its blocks: the span is all of them. */
  async openCache (_: Span, capacity: number, signal?: AbortSignal): Promise<HandOverCache> {
    const opening = new AbortController()
    const either = signal === undefined ? opening.signal : AbortSignal.any([signal, opening.signal])
    const failed = new AbortController()
    const opened = await Promise.allSettled(this.#servers.map(async (server, index) => {
      try {
        const channel = await server.openGeneration(either)
        return new Link(server, channel, (error) => { failed.abort(new Fault(index, error)) })
      } catch (error) {
        if (!either.aborted) opening.abort(isDefect(error) ? error : new StageError(server, asMidspanError(error)))
        throw error
      }
    }))
    const links = opened.flatMap((result) => result.status === 'fulfilled' ? [result.value] : [])
    const cache = new HandOverCache(links, failed.signal, this.#settings, capacity)
    try {
      const silent = opened.findIndex(({ status }) => status === 'rejected')
      if (signal?.aborted === true && signal.reason instanceof ChannelTimeoutError && silent >= 0)
        throw new StageError(this.#servers[silent]!, signal.reason)
      either.throwIfAborted()
      await cache.begin(signal)
      return cache
    } catch (error) {
      cache.abort(error)
      throw error
    }
  }
}

/** The session with one server of a chain. It listens all the time: that is how the end of a silent session is noticed. */
class Link implements CachePart {
  readonly server: string
  readonly span: Span
  readonly channel: GenerateClientChannel
  readonly #open: ChainServer['openGeneration']
  /** Resolves with what the session failed with. */
  readonly failure: Promise<unknown>
  #answer: PromiseWithResolvers<Received<ServerMessage>> | undefined

  constructor ({ server, span, openGeneration }: ChainServer, channel: GenerateClientChannel, onFailure: (error: unknown) => void) {
    this.server = server
    this.span = span
    this.channel = channel
    this.#open = openGeneration
    this.failure = this.#listen().then(() => undefined, (error: unknown) => {
      onFailure(error)
      return error
    })
  }

  get traffic (): CachePart['traffic'] { return this.channel.traffic }

  /** The next message. Call it before what brings the message is sent: one that nobody waits for ends the session. */
  answer (): Promise<Received<ServerMessage>> {
    this.#answer = Promise.withResolvers()
    return this.#answer.promise
  }

  /** Whether the server still says anything: whether it agrees on one more session, or refuses it. */
  async answers (): Promise<boolean> {
    const late = AbortSignal.timeout(PROBE_TIMEOUT_MS)
    try {
      const channel = await this.#open(late)
      channel.abort(new ChannelClosedError())
    } catch {
      // A refusal is an answer, too.
    }
    return !late.aborted
  }

  async #listen (): Promise<never> {
    for (;;) {
      const received = await this.channel.receive()
      if (this.#answer === undefined) throw new BadMessageError('the server answered where it was asked nothing')
      this.#answer.resolve(received)
      this.#answer = undefined
    }
  }
}

/** The KV caches of one sequence on servers that hand over to one another. */
export class HandOverCache implements StageCache {
  readonly capacity: number
  readonly parts: readonly Link[]
  /** Aborts with the Fault of the session that failed first. */
  readonly #failed: AbortSignal
  readonly #settings: ChainSettings
  #length = 0
  #serverMs: readonly number[] | undefined

  constructor (links: readonly Link[], failed: AbortSignal, settings: ChainSettings, capacity: number) {
    this.parts = links
    this.#failed = failed
    this.#settings = settings
    this.capacity = capacity
  }

  get length (): number { return this.#length }

  get serverMs (): readonly number[] | undefined { return this.#serverMs }

  /** Begins the sequence on each server, from the last to the first: each finds the next one waiting. */
  async begin (signal?: AbortSignal): Promise<void> {
    const { parts: links, capacity } = this
    const { round, isBatch = false } = this.#settings
    const secrets = links.slice(1).map(() => new Uint8Array(randomBytes(SECRET_BYTES)))
    for (const [index, link] of [...links.entries()].toReversed()) {
      const [to, from] = [secrets[index], secrets[index - 1]]
      await this.#failingWith(index, signal, async () => {
        const answer = link.answer()
        await link.channel.send(fromClient({
          case: 'begin',
          value: {
            ...link.span,
            capacity,
            round,
            batch: isBatch,
            ...to === undefined ? {} : { to: { peer: links[index + 1]!.server, secret: to } },
            ...from === undefined ? {} : { from: { peer: links[index - 1]!.server, secret: from } }
          }
        }), [], signal)
        const { message: { kind } } = await answer
        if (kind.case !== 'ready') throw new BadMessageError('the server did not make room for the sequence')
        if (kind.value.handsOver) return
        // It did not understand: nothing is wrong with it otherwise.
        const [side, neighbour] = from === undefined ? ['next', index + 1] as const : ['previous', index - 1] as const
        throw new HandoverError(side, links[neighbour]!.server, new BadMessageError('the server does not hand over'))
      })
    }
  }

  async forward ({ tensors, context }: CachedHiddenStates, signal?: AbortSignal): Promise<readonly Tensor[]> {
    const [position, count] = [this.#length, tokensOf(tensors)]
    const last = this.parts.length - 1
    const answer = this.parts[last]!.answer()
    await this.#failingWith(0, signal, async () => {
      const value = { position, count, ...contextFields(context) }
      await this.parts[0]!.channel.send(fromClient({ case: 'rows', value }), tensors, signal)
    })
    return await this.#failingWith(last, signal, async () => {
      const { message: { kind }, tensors: outputs } = await answer
      if (kind.case !== 'hidden' || kind.value.position !== position)
        throw new BadMessageError('the server answered something else than it was asked')
      checkHiddenStates(outputs, { ...this.#settings.format, rows: count })
      this.#serverMs = serverMsOf(kind.value, this.parts.length)
      this.#length = position + count
      return outputs
    })
  }

  rewind (position: number): void {
    checkPosition(position, this.#length)
    this.#length = position
  }

  async close (): Promise<void> {
    await Promise.allSettled(this.parts.map(async ({ channel }) => { await channel.close() }))
  }

  /** Ends all sessions, and says why. */
  abort (error: unknown): void {
    const reason = error instanceof Error ? error : new Error(String(error))
    for (const { channel } of this.parts) channel.abort(reason)
  }

  /** Does work with one server, which fails where any server of the chain does. Throws StageError, and the signal's reason. */
  async #failingWith<Result> (index: number, signal: AbortSignal | undefined, work: () => Promise<Result>): Promise<Result> {
    try {
      return await withSignal(withSignal(work(), this.#failed), signal)
    } catch (error) {
      if (signal?.aborted === true && signal.reason instanceof ChannelTimeoutError) throw await this.#late(signal.reason)
      signal?.throwIfAborted()
      throw await this.#named(error instanceof Fault ? error : new Fault(index, error))
    }
  }

  /** Ends a chain that is given up because it is late. Names the server that says nothing at all, where there is one. */
  async #late (reason: ChannelTimeoutError): Promise<Error> {
    const answers = await Promise.all(this.parts.map(async (link) => await link.answers()))
    // The servers would go on computing, and hold their caches.
    this.abort(reason)
    const silent = this.parts[answers.indexOf(false)]
    return silent === undefined ? reason : new StageError(silent, reason)
  }

  /** Names the server that failed. Where one lost another, that other one is it if it fails too; else it is the two of them. */
  async #named ({ index, reason }: Fault): Promise<Error> {
    const side = neighbourAtFault(reason)
    const link = this.parts[index]!
    const neighbour = side === undefined ? undefined : this.parts[side === 'next' ? index + 1 : index - 1]
    if (neighbour === undefined) return isDefect(reason) ? reason : new StageError(link, asMidspanError(reason))
    const over = new AbortController()
    const own = await Promise.race([
      delay(FAULT_GRACE_MS, undefined, { signal: over.signal }).catch(() => undefined),
      ...this.parts.map(async (part) => {
        const failure = await part.failure
        if (neighbourAtFault(failure) !== undefined) return await new Promise<never>(() => {}) // it says who else it is
        return new StageError(part, asMidspanError(failure))
      })
    ])
    over.abort()
    const [first, second] = side === 'next' ? [link, neighbour] : [neighbour, link]
    return own ?? new StageError({
      server: chainName([first.server, second.server]), span: { first: first.span.first, end: second.span.end }
    }, asMidspanError(reason))
  }
}

/** What the session with a server failed with. */
class Fault extends Error {
  readonly index: number
  readonly reason: Error

  constructor (index: number, reason: unknown) {
    super()
    this.index = index
    this.reason = reason instanceof Error ? reason : new Error(String(reason))
  }
}

/** Returns an error of this project as it is, and another one as what a stage that fails with it may be named for. */
function asMidspanError (error: unknown): MidspanError {
  if (error instanceof MidspanError) return error
  return new MidspanError('E_HANDOVER', error instanceof Error ? error.message : String(error), {
    cause: error, retryable: isRetryable(error)
  })
}
