import { spawn, type ChildProcess } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { withAllocatorSettings } from '../../src/node/process/allocator.ts'

const root = fileURLToPath(new URL('../../', import.meta.url))
const launcher = fileURLToPath(new URL('../../bin/midspan.js', import.meta.url))
const node = fileURLToPath(new URL('../../node_modules/.bin/node', import.meta.url))

/** A test that waits for a line has a limit of its own; this one ends what waits beside a test, and says what the process said. */
const LINE_TIMEOUT_MS = 300_000

export interface StartOptions {
  /** What starts it: a command with its words, such as one that chooses a network. */
  readonly through?: readonly string[]
  /** The directory in which it is started; that of the sources unless given. */
  readonly cwd?: string
}

export interface Finished {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

/** A `midspan` process, as a person would start it. */
export class MidspanProcess {
  readonly #child: ChildProcess
  readonly #ended: Promise<number | null>
  /** Tells of each piece of standard output, and of the end. */
  readonly #said = new EventEmitter().setMaxListeners(0)
  #hasEnded = false
  out = ''
  err = ''

  constructor (args: readonly string[], environment: NodeJS.ProcessEnv = {}, { through = [], cwd = root }: StartOptions = {}) {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('MIDSPAN_'))
    const [command = node, ...words] = [...through, node, launcher, ...args]
    this.#child = spawn(command, words, {
      cwd,
      // With these settings a process need not start itself anew for them.
      env: withAllocatorSettings({ ...Object.fromEntries(inherited), ...environment }),
      stdio: ['ignore', 'pipe', 'pipe']
    })
    this.#child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.out += text
      this.#said.emit('more')
    })
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.err += text
    })
    this.#ended = new Promise((resolve) => {
      this.#child.on('close', (code) => {
        this.#hasEnded = true
        this.#said.emit('more')
        resolve(code)
      })
    })
  }

  get pid (): number {
    return this.#child.pid ?? 0
  }

  /** Waits for a line of standard output that begins so, and returns the rest of it. Throws where the process ends without one. */
  async line (start: string, timeoutMs = LINE_TIMEOUT_MS): Promise<string> {
    const limit = AbortSignal.timeout(timeoutMs)
    for (;;) {
      const found = this.out.split('\n').slice(0, -1).find((line) => line.startsWith(start))
      if (found !== undefined) return found.slice(start.length)
      if (this.#hasEnded || limit.aborted)
        throw new Error(`no line '${start}…' (exit code ${this.#child.exitCode}): ${this.out}${this.err}`)
      await once(this.#said, 'more', { signal: limit }).catch(() => {})
    }
  }

  async end (): Promise<Finished> {
    return { code: await this.#ended, out: this.out, err: this.err }
  }

  /** Sends a signal, and waits for nothing. */
  kill (signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  async stop (signal: 'SIGINT' | 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<Finished> {
    this.#child.kill(signal)
    return await this.end()
  }
}

/** Runs a command to its end. */
export async function midspan (args: readonly string[], environment: NodeJS.ProcessEnv = {}): Promise<Finished> {
  return await new MidspanProcess(args, environment).end()
}

/** Returns standard error without the progress and the waits that a command tells of every few seconds, as it does on a busy machine. */
export function withoutProgress (err: string): string {
  return err.replace(/^(?:Founding: |Waiting: |[█░])[^\n]*\n/gm, '')
}
