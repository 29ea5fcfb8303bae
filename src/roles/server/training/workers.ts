import { Backoff } from '../../../backoff.ts'
import { MidspanError } from '../../../errors.ts'
import { BadMessageError, RemoteError } from '../../../protocols/wire/errors.ts'
import { withSignal } from '../../../protocols/wire/wait.ts'
import { spanText, type Span } from '../../../span.ts'
import type { KnownServer, ServerDirectory } from '../../context.ts'
import type { Logger } from '../../logger.ts'
import { systemClock, type Clock } from '../../training/clock.ts'
import type { Holder, Holders } from './holder.ts'

/** A worker's blocks, as `Workers` uses them: `WorkerLink`. */
export interface RemoteHolder extends Holder {
  /** Brings the worker's adapters to the round of training. */
  refresh (signal: AbortSignal): Promise<void>
  close (error: Error): void
}

export interface WorkersComponents {
  readonly directory: ServerDirectory
  /** The coordinator's own blocks, where it has some. */
  readonly local: Holder | undefined
  /** The blocks that may be trained in the middle. */
  readonly blocks: number
  /** Makes a link to a worker. Nothing is sent before it is asked something. */
  readonly link: (server: KnownServer, span: Span) => RemoteHolder
  readonly logger: Logger
  readonly signal: AbortSignal
  readonly clock?: Clock
}

/** How long a worker is left out whose stream broke: it may be back at once. Each further time in a row doubles it. */
const FIRST_LOST_MS = 250
const LAST_LOST_MS = 30_000

/** How long a worker is left out that answered what cannot be right. Each further time doubles it. */
const FIRST_FAULTY_MS = 60_000
const LAST_FAULTY_MS = 3_600_000

/** Thrown out of what is under way with a worker that is gone, or that serves other blocks now. */
export class WorkerGoneError extends MidspanError {
  constructor () {
    super('E_WORKER_GONE', 'the worker is gone, or serves other blocks now', { retryable: true })
  }
}

interface Worker {
  server: KnownServer
  link: RemoteHolder
  readonly lost: Backoff
  /** The time from which on it may be asked again. */
  untilMs: number
  cancelTimer: () => void
}

/** A worker that computed wrong. It stays left out when it comes back before its time. */
interface Fault {
  readonly pauses: Backoff
  untilMs: number
}

/** Workers whose faults are remembered: far more than a federation has at a time. */
const MAX_FAULTS = 1024

/** The workers of a federation and the coordinator's own blocks: who can be asked for which blocks now. */
export class Workers implements Holders {
  readonly #c: WorkersComponents
  readonly #clock: Clock
  readonly #workers = new Map<string, Worker>()
  readonly #faults = new Map<string, Fault>()
  readonly #stopWatching: () => void
  #changed = Promise.withResolvers<void>()

  constructor (components: WorkersComponents) {
    this.#c = components
    this.#clock = components.clock ?? systemClock
    this.#stopWatching = components.directory.onServersChanged(() => { this.#update() })
    this.#update()
  }

  available (): readonly Holder[] {
    const now = this.#clock.now()
    const links = [...this.#workers.values()].filter(({ untilMs, server }) => untilMs <= now && server.isDraining !== true)
      .map(({ link }) => link)
    return [...this.#c.local === undefined ? [] : [this.#c.local], ...links].sort((a, b) => a.peer < b.peer ? -1 : 1)
  }

  async changed (signal: AbortSignal): Promise<void> {
    await withSignal(this.#changed.promise, signal)
  }

  lost (holder: Holder, error: unknown): void {
    if (error instanceof BadMessageError && !(error instanceof RemoteError)) return this.faulty(holder, error.message)
    const worker = this.#workerOf(holder)
    if (worker === undefined) return
    const pauseMs = worker.lost.next()
    this.#leaveOut(worker, pauseMs)
    this.#c.logger.warn({ peer: holder.peer, blocks: spanText(holder.span), pauseMs, err: error }, 'a worker was lost; others compute its part')
  }

  faulty (holder: Holder, reason: string): void {
    const worker = this.#workerOf(holder)
    if (worker === undefined) return
    const fault = this.#faultOf(holder.peer)
    const pauseMs = fault.pauses.next()
    fault.untilMs = this.#clock.now() + pauseMs
    worker.link.close(new BadMessageError(reason))
    worker.link = this.#c.link(worker.server, holder.span)
    this.#leaveOut(worker, pauseMs)
    this.#c.logger.error({ peer: holder.peer, blocks: spanText(holder.span), pauseMs, reason }, 'a worker computes wrong, and is left out')
  }

  worked (holder: Holder): void {
    this.#workerOf(holder)?.lost.reset()
  }

  /** Brings the adapters of all workers to the round of training. */
  refresh (): void {
    for (const worker of this.#workers.values()) if (worker.untilMs <= this.#clock.now()) this.#refresh(worker)
  }

  /** Ends all that is under way with workers. */
  stop (): void {
    this.#stopWatching()
    for (const { link, cancelTimer } of this.#workers.values()) {
      cancelTimer()
      link.close(new WorkerGoneError())
    }
    this.#workers.clear()
  }

  /** Takes over what the directory says now. */
  #update (): void {
    const found = new Map<string, { server: KnownServer, span: Span }>()
    for (const server of this.#c.directory.servers()) {
      const { peerId, connected, span } = server
      if (connected && span !== undefined && this.#isServable(span)) found.set(peerId.toString(), { server, span })
    }
    for (const [peer, worker] of this.#workers) {
      const { link, cancelTimer } = worker
      const span = found.get(peer)?.span
      if (span?.first === link.span.first && span.end === link.span.end) continue
      cancelTimer()
      link.close(new WorkerGoneError())
      this.#workers.delete(peer)
      this.#c.logger.info({ peer, blocks: spanText(link.span) }, 'a worker is gone')
    }
    for (const [peer, { server, span }] of found) {
      const known = this.#workers.get(peer)
      if (known !== undefined) {
        known.server = server
        continue
      }
      const worker: Worker = {
        server,
        link: this.#c.link(server, span),
        lost: new Backoff({ firstMs: FIRST_LOST_MS, greatestMs: LAST_LOST_MS }),
        untilMs: 0,
        cancelTimer: () => {}
      }
      this.#workers.set(peer, worker)
      this.#c.logger.info({ peer, blocks: spanText(span) }, 'a worker is there')
      const pauseMs = (this.#faults.get(peer)?.untilMs ?? 0) - this.#clock.now()
      if (pauseMs > 0) this.#leaveOut(worker, pauseMs)
      else this.#refresh(worker)
    }
    this.#notify()
  }

  /** Sends a worker the adapters before it is asked to compute with them: they have their way behind them when a round begins. */
  #refresh (worker: Worker): void {
    const { link } = worker
    link.refresh(this.#c.signal).catch((error: unknown) => {
      if (!this.#c.signal.aborted) this.lost(link, error)
    })
  }

  #leaveOut (worker: Worker, pauseMs: number): void {
    worker.untilMs = Math.max(worker.untilMs, this.#clock.now() + pauseMs)
    worker.cancelTimer()
    worker.cancelTimer = this.#clock.after(worker.untilMs - this.#clock.now(), () => {
      this.#notify()
      this.#refresh(worker)
    })
    this.#notify()
  }

  /** The worker behind a holder, as long as it is the same link. */
  #workerOf (holder: Holder): Worker | undefined {
    const worker = this.#workers.get(holder.peer)
    return worker?.link === holder ? worker : undefined
  }

  #faultOf (peer: string): Fault {
    const known = this.#faults.get(peer)
    if (known !== undefined) return known
    const [oldest] = this.#faults.keys()
    if (oldest !== undefined && this.#faults.size >= MAX_FAULTS) this.#faults.delete(oldest)
    const fault = { pauses: new Backoff({ firstMs: FIRST_FAULTY_MS, greatestMs: LAST_FAULTY_MS }), untilMs: 0 }
    this.#faults.set(peer, fault)
    return fault
  }

  #isServable ({ first, end }: Span): boolean {
    return Number.isSafeInteger(first) && Number.isSafeInteger(end) && first >= 0 && first < end && end <= this.#c.blocks
  }

  #notify (): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }
}
