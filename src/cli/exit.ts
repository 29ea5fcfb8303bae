import { asFileError, MidspanError } from '../errors.ts'

/** What the process ends with. docs/cli.md is generated from this table. */
export const EXIT = {
  ok: 0,
  unexpected: 1,
  usage: 2,
  noDaemon: 3,
  refused: 4,
  connection: 5,
  interrupted: 130
} as const

export type ExitCode = typeof EXIT[keyof typeof EXIT]

export const EXIT_MEANINGS: ReadonlyArray<readonly [ExitCode, string]> = [
  [EXIT.ok, 'done'],
  [EXIT.unexpected, 'something unexpected failed; `--debug` shows where'],
  [EXIT.usage, 'wrong usage or unusable input: an option, a file, a model directory, a home'],
  [EXIT.noDaemon, 'the command needs the daemon, and none runs in this home, or it went away'],
  [EXIT.refused, 'a peer refused, or the charter does not allow it'],
  [EXIT.connection, 'no connection: the server cannot be reached, or it went away'],
  [EXIT.interrupted, 'interrupted with Ctrl-C']
]

/** The user pressed Ctrl-C, or the process was told to stop. */
export class InterruptedError extends MidspanError {
  static readonly code = 'E_INTERRUPTED'

  constructor (next?: string) {
    super(InterruptedError.code, 'interrupted', { next })
  }
}

/** Failures by code; one that is not here is unexpected. A server's refusals reach a client with the server's own codes. */
const CODES: ReadonlyArray<readonly [ExitCode, readonly RegExp[]]> = [
  [EXIT.usage, [
    /^E_(USAGE|FILE)$/, /^E_(NO_FEDERATION|HOME_IN_USE|HOME_LOCKED|NO_OPERATION|STATE)$/,
    /^E_(MODEL_DIRECTORY|MODEL_UNSUPPORTED|MODEL_STORE|SAFETENSORS|TENSOR_MISSING|TENSOR_MISMATCH|SNAPSHOT|TOKENIZER|DATASET|PROMPT|SAMPLING|ADAPTER|ADAPTER_SETTINGS|MERGE|EXPORT)$/
  ]],
  [EXIT.noDaemon, [/^E_(NO_DAEMON|DAEMON_GONE|STOPPED)$/]],
  [EXIT.refused, [
    /^E_(SETTING_REFUSED|NOT_ADMITTED|BAD_HELLO|NOT_SERVED|UNREADABLE|REMOTE|ROLE|VERSION|TOO_OFTEN|BUSY|CACHE_FULL|TOO_MANY_SESSIONS)$/,
    /^E_(CHARTER|INVITE|FEDERATION)(_|$)/
  ]],
  [EXIT.connection, [
    /^E_(NO_SERVER|UNREACHABLE|SESSION_CLOSED|STOPPING|SLOW_READER|BAD_MESSAGE)$/,
    /^E_(CHANNEL|FRAME)_/,
    /^E_HANDSHAKE$/
  ]],
  [EXIT.interrupted, [/^E_INTERRUPTED$/]]
]

/** The code that the process ends with for this error. */
export function exitCodeOf (error: unknown): ExitCode {
  const known = error instanceof MidspanError ? error : asFileError(error)
  if (known === undefined) return EXIT.unexpected
  return CODES.find(([, patterns]) => patterns.some((pattern) => pattern.test(known.code)))?.[0] ?? EXIT.unexpected
}

function oneLine (text: string): string {
  return text.replace(/\s*\r?\n\s*/g, ' ').trim()
}

/** The one line that a failure prints: what and why, then what to do. */
export function errorLine (error: unknown): string {
  const known = error instanceof MidspanError ? error : asFileError(error)
  if (known !== undefined) return `midspan: ${oneLine(known.message)}${known.next === undefined ? '' : ` (${oneLine(known.next)})`}`
  const message = error instanceof Error ? error.message : String(error)
  return `midspan: ${oneLine(message)} (unexpected: run it again with --debug to see where it comes from, and report it)`
}
