import { PassThrough } from 'node:stream'
import { commands } from '../../src/cli/commands.ts'
import { errorLine, EXIT, exitCodeOf } from '../../src/cli/exit.ts'
import { runProgram } from '../../src/cli/program.ts'
import { Terminal } from '../../src/cli/terminal.ts'
import type { Finished } from './process.ts'

class Recorder extends PassThrough {
  readonly isTTY: boolean
  readonly columns = 100

  constructor (isTTY: boolean) {
    super()
    this.isTTY = isTTY
  }

  get text (): string {
    return String(this.read() ?? '')
  }
}

/** A terminal that remembers what it was told, interactive or not. */
export function recordedTerminal (
  isTTY: boolean,
  environment: NodeJS.ProcessEnv = {}
): { terminal: Terminal, out: Recorder, err: Recorder } {
  const out = new Recorder(isTTY)
  const err = new Recorder(isTTY)
  return { terminal: new Terminal(out, err, environment), out, err }
}

/** Runs a command in this process, as main.ts does in its own; many times faster. */
export async function run (args: readonly string[], environment: NodeJS.ProcessEnv = {}): Promise<Finished> {
  const { terminal, out, err } = recordedTerminal(false)
  try {
    await runProgram({ version: '0.0.0', commands, terminal, environment, signal: new AbortController().signal }, args)
  } catch (error) {
    return { code: exitCodeOf(error), out: out.text, err: `${err.text}${errorLine(error)}\n` }
  }
  return { code: EXIT.ok, out: out.text, err: err.text }
}
