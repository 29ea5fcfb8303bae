import '../node/v8-flags.ts'
import { constants } from 'node:os'
import { AGENT } from '../node/version.ts'
import { commands } from './commands.ts'
import { errorLine, EXIT, exitCodeOf, InterruptedError } from './exit.ts'
import { runProgram } from './program.ts'
import { Terminal } from './terminal.ts'

const STOP_SIGNALS = ['SIGINT', 'SIGTERM'] as const

/** Aborts on the first SIGINT or SIGTERM; the second ends the process where it stands. */
function stopSignal (): AbortSignal {
  const controller = new AbortController()
  for (const name of STOP_SIGNALS) {
    process.on(name, () => {
      if (controller.signal.aborted) process.exit(128 + constants.signals[name])
      controller.abort(new InterruptedError())
    })
  }
  return controller.signal
}

function isDebugging (): boolean {
  const fromEnvironment = process.env.MIDSPAN_DEBUG
  return process.argv.includes('--debug') || fromEnvironment === 'true' || fromEnvironment === '1'
}

function fail (error: unknown): void {
  console.error(errorLine(error))
  if (isDebugging()) console.error(error)
  process.exitCode = exitCodeOf(error)
}

// A reader that closes early (`midspan peers | head -1`) has what it wanted.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.ok)
  fail(error)
})
process.on('uncaughtException', (error) => {
  fail(error)
  process.exit()
})

// The limits of waits (AbortSignal.timeout) do not keep a process alive: without this, one whose peer went away would just end.
const alive = setInterval(() => {}, 60_000)
try {
  await runProgram({
    version: AGENT.replace('midspan/', ''),
    commands,
    terminal: new Terminal(),
    environment: process.env,
    signal: stopSignal()
  }, process.argv.slice(2))
} catch (error) {
  fail(error)
} finally {
  clearInterval(alive)
}
