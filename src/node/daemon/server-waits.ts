import { setTimeout as delay } from 'node:timers/promises'
import { isResult } from '../../api/check.ts'
import { waiting, type Waiting } from '../../api/fields.ts'
import type { EventOf, OfferedOperations, OperationName } from '../../api/operations.ts'
import { MidspanError } from '../../errors.ts'
import { RefusedError, REFUSALS } from '../../protocols/hello/index.ts'
import type { KnownServer } from '../../roles/context.ts'
import type { ServerLinks } from '../network/server-links.ts'

/** What this file asks of a client's connections to its servers. */
export type Links = Pick<ServerLinks, 'failure'> & {
  servers (): ReadonlyArray<Pick<KnownServer, 'connected'>>
  /** Tries to connect now, in place of after the pause between tries. */
  dialNow? (): void
}

/** An operation that brings no event for so long says what it waits for. */
const QUIET_MS = 5_000

/** How often a client that waits for a connection looks for one. */
const LOOK_MS = 100

/** Thrown when no server brought a connection or an answer within the time that the caller gives. Trying again later may help. */
export class ServerTimeoutError extends MidspanError {
  constructor (timeoutMs: number, reason: string) {
    super('E_SERVER_TIMEOUT', `gave up after ${timeoutMs / 1000} s: ${reason}`, {
      next: 'try again later, or give a longer --timeout; the daemon goes on trying to connect'
    })
  }
}

/** Says what an operation does on this machine after its last event so far; undefined where it waits for a server. */
type LocalWork = (last: unknown) => string | undefined

/** Wraps a client's operations, so that they say what they wait for, and give up by their `timeoutMs`; training waits on. */
export function waitingForServers (offered: OfferedOperations, links: Links, quietMs = QUIET_MS): OfferedOperations {
  const { train, evaluate, evaluateTask, generate, export: exportTrained, ...others } = offered
  const common = { links, quietMs }
  const readingFirst: LocalWork = (last) => last === undefined ? 'the data file is being read' : undefined
  const writingLast: LocalWork = (last) => last === undefined ? undefined : 'the files are being written'
  return {
    ...others,
    ...train === undefined ? {} : {
      train: (parameters, signal) => saysWaits('train', (inner) => train(parameters, inner), { ...common, local: readingFirst }, signal)
    },
    ...evaluate === undefined ? {} : {
      evaluate: (parameters, signal) =>
        untilTimeout('evaluate', (inner) => evaluate(parameters, inner), { ...common, ...parameters, local: readingFirst }, signal)
    },
    ...evaluateTask === undefined ? {} : {
      evaluateTask: (parameters, signal) =>
        untilTimeout(
          'evaluateTask', (inner) => evaluateTask(parameters, inner), { ...common, ...parameters, local: readingFirst, said: reasonOf }, signal
        )
    },
    ...generate === undefined ? {} : {
      generate: (parameters, signal) =>
        untilTimeout(
          'generate', (inner) => generate(parameters, inner), { ...common, ...parameters, local: () => undefined, said: reasonOf }, signal
        )
    },
    ...exportTrained === undefined ? {} : {
      export: (parameters, signal) =>
        untilTimeout('export', (inner) => exportTrained(parameters, inner), { ...common, ...parameters, local: writingLast }, signal)
    }
  }
}

export interface Waits {
  readonly links: Links
  readonly local: LocalWork
  /** What the operation itself said last that it waits for; it knows better where a server is connected. */
  readonly said?: (last: unknown) => string | undefined
  readonly quietMs: number
  /** Without one, the operation waits on. */
  readonly timeoutMs?: number
}

type Work<Name extends OperationName> = (signal: AbortSignal) => AsyncIterable<EventOf<Name>>

/** Runs an operation once a server is connected. Throws the server's refusal, and ServerTimeoutError. */
function untilTimeout<Name extends OperationName> (
  name: Name,
  work: Work<Name>,
  waits: Waits & { readonly timeoutMs: number },
  signal: AbortSignal
): AsyncGenerator<EventOf<Name> | Waiting> {
  let connected = false
  return saysWaits<Name>(name, async function * (inner) {
    await connection(waits.links, inner)
    connected = true
    yield * work(inner)
  }, { ...waits, local: (last) => connected ? waits.local(last) : undefined }, signal)
}

/** Resolves when a server is connected. Throws the refusal of a server that does not let this client in, unless it passes by itself. */
async function connection (links: Links, signal: AbortSignal): Promise<void> {
  links.dialNow?.()
  while (!links.servers().some(({ connected }) => connected)) {
    const failure = links.failure()
    if (failure instanceof RefusedError && failure.code !== REFUSALS.tooOften) throw failure
    await delay(LOOK_MS, undefined, { signal })
  }
}

/**
 * Yields the events of an operation, and between them, whenever nothing came for `quietMs`, what it waits for.
 * Throws ServerTimeoutError when it has waited for a server for `timeoutMs` since its last event that was more than waiting.
 */
export async function * saysWaits<Name extends OperationName> (
  name: Name,
  work: Work<Name>,
  { links, local, said = () => undefined, quietMs, timeoutMs = Infinity }: Waits,
  signal: AbortSignal
): AsyncGenerator<EventOf<Name> | Waiting> {
  const left = new AbortController()
  const events = work(AbortSignal.any([signal, left.signal]))[Symbol.asyncIterator]()
  let last: EventOf<Name> | undefined
  let progressAtMs = performance.now()
  try {
    for (;;) {
      const next = events.next()
      next.catch(() => {}) // thrown below, unless the caller leaves
      // After the result comes only the end.
      while (last === undefined || !isResult(name, last)) {
        const leftMs = progressAtMs + timeoutMs - performance.now()
        if (leftMs > 0 && await settles(next, Math.min(quietMs, leftMs))) break
        const busy = local(last)
        if (busy !== undefined) progressAtMs = performance.now()
        const reason = busy ?? serverReason(links, said(last))
        if (performance.now() - progressAtMs >= timeoutMs) throw new ServerTimeoutError(timeoutMs, reason)
        yield { type: 'waiting', reason }
      }
      const result = await next
      if (result.done === true) return
      last = result.value
      // What an operation itself says of its waiting is no progress.
      if (!isWaiting(last)) progressAtMs = performance.now()
      yield last
    }
  } finally {
    left.abort(new MidspanError('E_CALLER_GONE', 'the operation was ended'))
    // Work that does not heed the signal must not keep the caller from hearing how it ended.
    await settles(Promise.resolve(events.return?.()), quietMs)
  }
}

function isWaiting (event: unknown): boolean {
  return reasonOf(event) !== undefined
}

/** Returns what an event says that its operation waits for; undefined for events that bring more. */
function reasonOf (event: unknown): string | undefined {
  return waiting.safeParse(event).data?.reason
}

/** Whether a promise settles in time. */
async function settles (promise: Promise<unknown>, ms: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>()
  // A timer drops fractions: rounded down, it would end just before its time.
  const timer = setTimeout(() => { resolve(false) }, Math.ceil(ms))
  try {
    return await Promise.race([promise.then(() => true, () => true), late])
  } finally {
    clearTimeout(timer)
  }
}

/** Says what is known of the servers that work waits for. */
function serverReason (links: Links, said: string | undefined): string {
  if (links.servers().some(({ connected }) => connected))
    return said ?? "the server is connected, and neither its answer nor this machine's own work is done yet"
  const failure = links.failure()
  return failure === undefined ? 'no server is connected yet' : `no server is connected: ${failure.message}`
}
