import { MidspanError } from '../../errors.ts'
import type { ClientSettings } from '../../protocols/charter/index.ts'
import { withSignal } from '../../protocols/wire/wait.ts'
import type { RoleComponents } from '../components.ts'
import type { ClientContext } from '../context.ts'
import { closeClient, openClient, type Client } from './client.ts'

/** Thrown when a second change of partition is asked for. */
export class PartitionBusyError extends MidspanError {
  constructor () {
    super('E_BUSY', 'the blocks of this client are being changed already', { next: 'wait until that is done' })
  }
}

/** A change that is asked for or in progress. */
interface Change {
  readonly over: PromiseWithResolvers<void>
}

/**
 * A client whose partition may change. Operations work with the client as it is, and a change waits until they have ended; those that come
 * meanwhile wait for the change. Training makes way for it between two rounds.
 */
export class CurrentClient {
  readonly #components: RoleComponents
  #client: Client
  #users = 0
  #unused = Promise.withResolvers<void>()
  #change: Change | undefined
  #makeWay = new AbortController()
  /** Why there is no client any more. */
  #failure: Error | undefined

  private constructor (client: Client, components: RoleComponents) {
    this.#client = client
    this.#components = components
  }

  /** Opens a client with the partition of its context. The caller closes it. */
  static async open (context: ClientContext, components: RoleComponents): Promise<CurrentClient> {
    return new CurrentClient(await openClient(context, components), components)
  }

  get client (): Client { return this.#client }

  /** Aborts when a change waits for training to stop between two rounds. It is another signal after each change. */
  get makeWay (): AbortSignal { return this.#makeWay.signal }

  /** Yields the events of work with the client, which stays as it is until the work ends. */
  async * use<Event> (work: (client: Client) => AsyncIterable<Event>, signal: AbortSignal): AsyncGenerator<Event> {
    const client = await this.take(signal)
    try {
      yield * work(client)
    } finally {
      this.giveBack()
    }
  }

  /** Resolves with the client, after a change that is in progress. The caller gives it back. */
  async take (signal: AbortSignal): Promise<Client> {
    while (this.#change !== undefined) await withSignal(this.#change.over.promise, signal)
    if (this.#failure !== undefined) throw this.#failure
    this.#users++
    return this.#client
  }

  giveBack (): void {
    if (--this.#users > 0) return
    this.#unused.resolve()
    this.#unused = Promise.withResolvers()
  }

  /**
   * Changes the settings of the client, its partition among them, as soon as nothing works with it. `commit` makes the new settings
   * durable: a home that was killed before it has the old client, and after it the new one. Where something fails the client is as before.
   * Throws PartitionBusyError, and what `openClient` and `commit` throw. The signal ends the wait, and not a change that has begun.
   */
  async change (settings: ClientSettings, commit: () => Promise<void>, signal: AbortSignal): Promise<void> {
    if (this.#change !== undefined) throw new PartitionBusyError()
    const change: Change = this.#change = { over: Promise.withResolvers() }
    this.#makeWay.abort(new MidspanError('E_MAKE_WAY', 'the blocks of this client change'))
    try {
      while (this.#users > 0) await withSignal(this.#unused.promise, signal)
      signal.throwIfAborted()
      await this.#replace(settings, commit)
    } finally {
      this.#change = undefined
      this.#makeWay = new AbortController()
      change.over.resolve()
    }
  }

  async close (): Promise<void> {
    await closeClient(this.#client)
  }

  async #replace (settings: ClientSettings, commit: () => Promise<void>): Promise<void> {
    const before = this.#client
    const { context, state } = before
    await state.announce(settings.partition)
    // The weights of both would not fit every device at once.
    await closeClient(before)
    let after: Client | undefined
    try {
      after = await openClient({ ...context, client: settings }, this.#components, before)
      await commit()
      this.#client = after
    } catch (error) {
      if (after !== undefined) await closeClient(after)
      try {
        this.#client = await openClient(context, this.#components, before)
      } catch (failure) {
        this.#failure = new MidspanError('E_PARTITION_FAILED', 'the blocks of this client could not be changed, nor the old ones loaded again', {
          next: 'start its daemon again', cause: failure
        })
      }
      throw error
    }
  }
}
