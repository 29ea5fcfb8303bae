import { operations, type OfferedOperations, type ResultOf } from '../../api/operations.ts'
import { MidspanError } from '../../errors.ts'

/** Thrown at those who ask a daemon for work before it is ready. */
export class StartingError extends MidspanError {
  constructor (doing: string, since: string) {
    super('E_STARTING', `the daemon is starting: ${doing}, since ${since}`, { next: '`midspan status` shows when it is ready' })
  }
}

/** What is known of a daemon before it is ready. */
export type KnownAtStart = Pick<ResultOf<'status'>, 'agent' | 'peerId' | 'role' | 'home' | 'federation' | 'coordinator' | 'device'>

/** What a daemon does until it is ready, for those who ask meanwhile. */
export class Startup {
  readonly #known: KnownAtStart
  readonly #since = new Date().toISOString()
  #doing: { readonly doing: string, readonly since: string }

  constructor (known: KnownAtStart, doing: string) {
    this.#known = known
    this.#doing = { doing, since: this.#since }
  }

  /** Notes what the daemon begins to do: the end of a sentence that begins with "the daemon is". */
  begin (doing: string): void {
    this.#doing = { doing, since: new Date().toISOString() }
  }

  /** What a daemon offers until it is ready: `status`, and of everything else a refusal that says what it is doing. */
  get operations (): OfferedOperations {
    const refuse = (): never => { throw new StartingError(this.#doing.doing, this.#doing.since) }
    const status = (): ResultOf<'status'> => this.#status()
    return {
      ...Object.fromEntries(Object.keys(operations).map((name) => [name, refuse])),
      async *status () { yield status() }
    }
  }

  #status (): ResultOf<'status'> {
    return {
      ...this.#known,
      starting: this.#doing,
      addresses: [],
      listening: [],
      deviceReason: 'as its settings say',
      blocks: null,
      partition: null,
      route: null,
      connected: false,
      disconnectedReason: null,
      members: null,
      training: null,
      generation: null,
      verification: null,
      since: this.#since
    }
  }
}
