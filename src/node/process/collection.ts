import v8 from 'node:v8'
import { runInNewContext } from 'node:vm'

/**
 * So many strangers leave about 10 MB of garbage: a connection that shakes hands has about 0.1 MB of objects, which live for seconds
 * and so are no longer young when they go.
 */
const STRANGERS = 100

/** A collection of a server's heap stops its main thread for some tens of milliseconds. */
const LEAST_PAUSE_MS = 5_000

type Collect = (options: { readonly type: 'major', readonly execution: 'async' }) => unknown

/** Returns V8's own function, or one that does nothing where this V8 has none. */
function exposedCollect (): Collect {
  try {
    v8.setFlagsFromString('--expose-gc')
    return runInNewContext('gc') as Collect
  } catch {
    return () => {} // V8's flags are no stable interface: without them a flood of strangers takes more memory for a while
  }
}

/**
 * Collects the garbage of strangers while they come in great numbers. V8 would wait until the heap has four times what is alive
 * (v8-flags.ts says why it may), so that strangers could have a server hold some hundreds of megabytes of nothing.
 */
export class StrangersGarbage {
  readonly #now: () => number
  readonly #request: () => void
  #left = 0
  #lastMs = -Infinity

  constructor (request?: () => void, now: () => number = () => performance.now()) {
    let collect: Collect | undefined
    this.#request = request ?? (() => { void (collect ??= exposedCollect())({ type: 'major', execution: 'async' }) })
    this.#now = now
  }

  /** Notes that a connection from outside is gone. */
  connectionClosed (): void {
    if (++this.#left < STRANGERS || this.#now() - this.#lastMs < LEAST_PAUSE_MS) return
    this.#left = 0
    this.#lastMs = this.#now()
    this.#request()
  }
}
