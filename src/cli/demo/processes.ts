import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { MidspanError } from '../../errors.ts'

const executable = fileURLToPath(new URL('../../../bin/midspan.js', import.meta.url))

/** A daemon that is told to stop says goodbye to its peers; one that takes longer is killed. */
const stopTimeoutMs = 5_000
/** Starting a daemon takes about a second; a loaded machine may need many. */
const readyTimeoutMs = 180_000
/** Joining fetches less than a megabyte here, in about a second; a loaded machine may need many. */
const commandTimeoutMs = 180_000

/** One of the demo's own processes failed. */
export class DemoProcessError extends MidspanError {
  constructor (command: string, reason: string) {
    super('E_DEMO_PROCESS', `midspan ${command}: ${reason}`, {
      next: 'run the demo again with --keep and look into the homes that it names'
    })
  }
}

/** The `midspan` processes of a demo. */
export class Processes {
  readonly #daemons: ChildProcess[] = []
  readonly #environment: NodeJS.ProcessEnv

  constructor () {
    // Settings meant for the user's own peers would change the demo's.
    this.#environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('MIDSPAN_')))
  }

  /** Runs a command to its end and gives back the JSON object that it prints. */
  async run<T> (command: readonly string[], signal: AbortSignal): Promise<T> {
    const child = this.#spawn([...command, '--json'], AbortSignal.any([signal, AbortSignal.timeout(commandTimeoutMs)]))
    const [output, errors, code] = await Promise.all([text(child.stdout!), text(child.stderr!), exitCode(child)])
    signal.throwIfAborted()
    if (code !== 0) throw new DemoProcessError(command[0]!, errors.trim() || `it ended with exit code ${code}`)
    return JSON.parse(output) as T
  }

  /** Starts a daemon and waits until others can reach it. Resolves with what kills it on the spot, so that it says no goodbye. */
  async startDaemon (options: readonly string[], signal: AbortSignal): Promise<() => void> {
    const child = this.#spawn(['daemon', ...options])
    this.#daemons.push(child)
    const errors = text(child.stderr!)
    const lines = createInterface({ input: child.stdout! })
    const limit = AbortSignal.any([signal, AbortSignal.timeout(readyTimeoutMs)])
    const stop = (): void => { lines.close() }
    limit.addEventListener('abort', stop, { once: true })
    try {
      for await (const line of lines) {
        if (line === 'Daemon is ready') return () => { child.kill('SIGKILL') }
      }
    } finally {
      limit.removeEventListener('abort', stop)
      child.stdout!.resume() // so that what it prints later does not hold it up
    }
    signal.throwIfAborted()
    throw new DemoProcessError('daemon', limit.aborted ? 'it was not ready in time' : (await errors).trim() || 'it ended at its start')
  }

  /** Ends every daemon that still runs. */
  async stop (): Promise<void> {
    await Promise.all(this.#daemons.map(async (child) => {
      if (child.exitCode !== null || child.signalCode !== null) return
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      const timer = setTimeout(() => child.kill('SIGKILL'), stopTimeoutMs)
      await ended
      clearTimeout(timer)
    }))
  }

  #spawn (command: readonly string[], signal?: AbortSignal): ChildProcess {
    const options = { env: this.#environment, stdio: ['ignore', 'pipe', 'pipe'] as ['ignore', 'pipe', 'pipe'] }
    const child = spawn(process.execPath, [executable, ...command], signal === undefined ? options : { ...options, signal })
    child.on('error', () => {}) // told by its exit
    return child
  }
}

async function text (stream: NodeJS.ReadableStream): Promise<string> {
  let all = ''
  for await (const chunk of stream) all += String(chunk)
  return all
}

async function exitCode (child: ChildProcess): Promise<number | null> {
  const [code] = await once(child, 'close') as [number | null]
  return code
}
