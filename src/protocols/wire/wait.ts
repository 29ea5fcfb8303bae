import type { Stream } from '@libp2p/interface'
import { ChannelTimeoutError } from './errors.ts'

/** Settles as the promise does; rejects with the signal's reason as soon as it aborts. */
export async function withSignal<T> (promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return await promise
  return await new Promise<T>((resolve, reject) => {
    const onAbort = (): void => { reject(signal.reason as Error) }
    if (signal.aborted) onAbort()
    else signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => { signal.removeEventListener('abort', onAbort) })
  })
}

/** Calls back with a ChannelTimeoutError unless cleared in time; an infinite timeout never fires. */
export function startTimeout (
  what: string,
  timeoutMs: number,
  onTimeout: (error: ChannelTimeoutError) => void
): NodeJS.Timeout | undefined {
  if (timeoutMs === Infinity) return undefined
  return setTimeout(() => { onTimeout(new ChannelTimeoutError(what, timeoutMs)) }, timeoutMs)
}

/** Runs with a signal that also aborts, with a ChannelTimeoutError, when the time is up. */
export async function withDeadline<T> (
  what: string,
  timeoutMs: number,
  signal: AbortSignal | undefined,
  run: (signal: AbortSignal) => Promise<T>
): Promise<T> {
  const deadline = new AbortController()
  const timer = startTimeout(what, timeoutMs, (error) => { deadline.abort(error) })
  try {
    return await run(signal === undefined ? deadline.signal : AbortSignal.any([signal, deadline.signal]))
  } finally {
    clearTimeout(timer)
  }
}

/** Resolves when a stream is closed, whoever closed it and however, or when the time is up. */
export async function streamClosed (stream: Stream, timeoutMs: number): Promise<void> {
  if (stream.status !== 'open') return
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, timeoutMs)
    stream.addEventListener('close', () => {
      clearTimeout(timer)
      resolve()
    }, { once: true })
  })
}
