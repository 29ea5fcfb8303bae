import '../node/process/v8-flags.ts'
import { inspect } from 'node:util'
import { AGENT } from '../node/process/version.ts'
import type { Command } from './command.ts'
import { commands } from './commands.ts'
import { errorLine, EXIT, exitCodeOf, withoutInvites } from './exit.ts'
import { runProgram } from './program.ts'
import { listenToSignals } from './signals.ts'
import { Terminal } from './terminal.ts'

const stop = listenToSignals()

/** The command that runs. */
let running: Command | undefined

/** Whether stacks are shown. Also told by the options, once they are read: a file may say it. */
let debugging = process.argv.includes('--debug') || ['true', '1'].includes(process.env.MIDSPAN_DEBUG ?? '')

function fail (error: unknown): void {
  console.error(errorLine(error))
  if (debugging) console.error(withoutInvites(inspect(error)))
  process.exitCode = exitCodeOf(error)
}

// A reader that closes early: a daemon goes on, since its work is not what it prints, and longer work stops, since nobody gets its result.
// Whoever read part of a short answer (`midspan peers | head -1`) has what they wanted.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') fail(error)
  else if (running?.withoutReader === 'stops') stop.stop('SIGPIPE')
  else if (running?.withoutReader !== 'goes on') process.exit(EXIT.ok)
})
// Remarks that nobody reads are no reason to stop.
process.stderr.on('error', () => {})
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
    signal: stop.signal,
    onStart: (command, debug) => {
      running = command
      debugging ||= debug
    }
  }, process.argv.slice(2))
} catch (error) {
  fail(error)
} finally {
  clearInterval(alive)
}
