import '../node/process/v8-flags.ts'
import { constants } from 'node:os'
import { AGENT } from '../node/process/version.ts'
import { commands } from './commands.ts'
import { errorLine, EXIT, exitCodeOf, InterruptedError } from './exit.ts'
import { runProgram } from './program.ts'
import { Terminal } from './terminal.ts'

/** Ctrl-C, a request to end, and a terminal that was closed. */
const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Aborts on the first of the signals; the second ends the process where it stands. */
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

/** Whether stacks are shown. Also told by the options, once they are read: a file may say it. */
let debugging = process.argv.includes('--debug') || ['true', '1'].includes(process.env.MIDSPAN_DEBUG ?? '')

function fail (error: unknown): void {
  console.error(errorLine(error))
  if (debugging) console.error(error)
  process.exitCode = exitCodeOf(error)
}

// A reader that closes early (`midspan peers | head -1`) has what it wanted.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(EXIT.ok)
    fail(error)
  })
}
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
    signal: stopSignal(),
    onDebug: () => { debugging = true }
  }, process.argv.slice(2))
} catch (error) {
  fail(error)
} finally {
  clearInterval(alive)
}
