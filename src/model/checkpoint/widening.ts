import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import type { FloatDType } from './dtypes.ts'

/** A tensor's place in a file. */
export interface StoredRange {
  readonly path: string
  readonly start: number
  readonly bytes: number
  readonly dtype: FloatDType
}

/** The values of a range, or why there are none. */
export type Widened =
  | { readonly data: Float32Array<ArrayBuffer> }
  | { readonly fault: 'short' | 'not finite' }
  | { readonly fault: 'unreadable', readonly message: string }

/** One thread converts while another waits for the disk; more than four only help where disks are faster than memory. */
export const widenThreads = Math.min(4, Math.max(2, availableParallelism()))

/** Threads end when nothing was read for so long. */
const IDLE_MS = 2000

/** The worker entry beside this file, with the extension that this file has: sources run as .ts, the published build as .js. */
const entry = new URL(import.meta.url.endsWith('.ts') ? './widen-worker.ts' : './widen-worker.js', import.meta.url)

interface Thread {
  readonly worker: Worker
  readonly waiting: Array<(answer: Widened) => void>
}

let threads: Thread[] = []
let idle: NodeJS.Timeout | undefined

/** Reads a range as float32 on another thread. Main threads serve peers meanwhile, and several ranges are read at once. */
export async function readWidened (range: StoredRange): Promise<Widened> {
  clearTimeout(idle)
  const thread = leastBusy()
  thread.worker.ref()
  const answer = await new Promise<Widened>((resolve) => {
    thread.waiting.push(resolve)
    thread.worker.postMessage(range)
  })
  if (thread.waiting.length === 0) thread.worker.unref()
  if (threads.every(({ waiting }) => waiting.length === 0)) idle = setTimeout(endThreads, IDLE_MS).unref()
  return answer
}

function leastBusy (): Thread {
  const free = threads.find(({ waiting }) => waiting.length === 0)
  if (free !== undefined) return free
  if (threads.length < widenThreads) return startThread()
  return threads.reduce((least, thread) => thread.waiting.length < least.waiting.length ? thread : least)
}

function startThread (): Thread {
  const thread: Thread = { worker: new Worker(entry, { execArgv: [] }), waiting: [] }
  thread.worker.on('message', (answer: Widened) => { thread.waiting.shift()?.(answer) })
  const fail = (message: string): void => {
    threads = threads.filter((other) => other !== thread)
    for (const resolve of thread.waiting.splice(0)) resolve({ fault: 'unreadable', message })
  }
  thread.worker.on('error', (error) => { fail(error instanceof Error ? error.message : String(error)) })
  thread.worker.on('exit', () => { fail('the reading thread ended') })
  threads.push(thread)
  return thread
}

function endThreads (): void {
  for (const { worker } of threads.splice(0)) void worker.terminate()
}
