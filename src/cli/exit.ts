import { constants } from 'node:os'
import { asFileError, MidspanError } from '../errors.ts'

/** What the process ends with. docs/cli.md is generated from this table. */
export const EXIT = {
  ok: 0,
  unexpected: 1,
  usage: 2,
  noDaemon: 3,
  refused: 4,
  connection: 5,
  hungUp: 128 + constants.signals.SIGHUP,
  interrupted: 128 + constants.signals.SIGINT,
  noReader: 128 + constants.signals.SIGPIPE,
  terminated: 128 + constants.signals.SIGTERM
} as const

export type ExitCode = typeof EXIT[keyof typeof EXIT]

export interface ExitMeaning {
  readonly code: ExitCode
  readonly meaning: string
  /** What the code asks a script to do. */
  readonly script: string
}

export const EXIT_MEANINGS: readonly ExitMeaning[] = [
  { code: EXIT.ok, meaning: 'done', script: 'go on' },
  {
    code: EXIT.unexpected,
    meaning: 'something unexpected failed; `--debug` shows where, and for work of the daemon its log does',
    script: 'stop and report it: the same again is likely to fail in the same way'
  },
  {
    code: EXIT.usage,
    meaning: 'wrong usage or unusable input: an option, a file, a model directory, a home',
    script: 'stop: correct what the line names; trying again changes nothing'
  },
  {
    code: EXIT.noDaemon,
    meaning: 'the command needs the daemon, and none runs in this home, it is still starting, it went away, or it answers nothing',
    script: 'start the daemon, wait for `Daemon is ready`, and run the command again'
  },
  {
    code: EXIT.refused,
    meaning: 'a peer refused, or the charter does not allow it',
    script: 'stop: ask whom the line names; `E_BUSY` and full caches alone pass by themselves, in minutes'
  },
  {
    code: EXIT.connection,
    meaning: 'no connection: the server cannot be reached, it went away, or it did not answer within `--timeout`',
    script: 'run the command again after a pause that grows; `train` resumes'
  },
  { code: EXIT.hungUp, meaning: 'ended because its terminal was closed (SIGHUP)', script: 'as for 130' },
  { code: EXIT.interrupted, meaning: 'interrupted with Ctrl-C (SIGINT)', script: 'stop: somebody wanted it; the same command resumes' },
  {
    code: EXIT.noReader,
    meaning: 'whoever read its output closed it before the work was done',
    script: 'as for 130, with a reader that reads to the end'
  },
  { code: EXIT.terminated, meaning: 'told to end (SIGTERM)', script: 'as for 130' }
]

/** What told the process to end, in words, and the code that it ends with. */
const INTERRUPTIONS = {
  SIGINT: { words: 'interrupted', code: EXIT.interrupted },
  SIGTERM: { words: 'told to end (SIGTERM)', code: EXIT.terminated },
  SIGHUP: { words: 'the terminal was closed (SIGHUP)', code: EXIT.hungUp },
  SIGPIPE: { words: 'the reader of the output went away', code: EXIT.noReader }
} as const

export type Interruption = keyof typeof INTERRUPTIONS

/** Thrown when the user pressed Ctrl-C, or the process was told to stop in another way. */
export class InterruptedError extends MidspanError {
  static readonly code = 'E_INTERRUPTED'
  readonly by: Interruption

  constructor (by: Interruption = 'SIGINT', next?: string) {
    super(InterruptedError.code, INTERRUPTIONS[by].words, { next })
    this.by = by
  }

  /** Returns the same interruption with what to do about it. */
  withNext (next: string): InterruptedError {
    return new InterruptedError(this.by, next)
  }
}

/** Failures by code; one that is not here is unexpected. A server's refusals reach a client with the server's own codes. */
const CODES: ReadonlyArray<readonly [ExitCode, readonly RegExp[]]> = [
  [EXIT.usage, [
    /^E_(USAGE|FILE)$/, /^E_(NO_FEDERATION|HOME_IN_USE|HOME_LOCKED|HOME_OPEN|NO_OPERATION|STATE|PARTITION_LOSS|LEAD|NO_MANDATE|NO_STANDBY)$/,
    /^E_(MODEL_DIRECTORY|MODEL_UNSUPPORTED|MODEL_STORE|SAFETENSORS|TENSOR_MISSING|TENSOR_MISMATCH|SNAPSHOT|TOKENIZER|DATASET|TASK|PROMPT|SAMPLING|ADAPTER|ADAPTER_SETTINGS|MERGE|EXPORT|CONTEXT_LENGTH|OUTPUT_FORMAT|VOCABULARY)$/
  ]],
  [EXIT.noDaemon, [/^E_(NO_DAEMON|STARTING|DAEMON_GONE|DAEMON_SILENT|DAEMON_VERSION|STOPPED)$/]],
  [EXIT.refused, [
    /^E_(SETTING_REFUSED|NOT_ADMITTED|BAD_HELLO|NOT_SERVED|UNREADABLE|REMOTE|ROLE|VERSION|TOO_OFTEN|ROUNDS_AHEAD|BUSY|CACHE_FULL|CACHE_EVICTED|TOO_MANY_SESSIONS)$/,
    /^E_(AGGREGATION_REFUSED|UNKNOWN_CONTRIBUTOR|ROUND_REPEATED|SPAN_NOT_SERVED|NOT_COORDINATOR|REVOCATIONS)$/,
    /^E_(CHARTER|INVITE|FEDERATION)(_|$)/
  ]],
  [EXIT.connection, [
    /^E_(NO_SERVER|SERVER_TIMEOUT|UNREACHABLE|SESSION_CLOSED|STOPPING|SLOW_READER|BAD_MESSAGE)$/,
    /^E_(BLOCKS_MISSING|ADAPTERS_MISSING|ADAPTERS_OUTDATED|WORKER_GONE|WORKER_SILENT|PASS_INTERRUPTED|MOVE_WITHDRAWN)$/,
    /^E_(CHANNEL|FRAME)_/,
    /^E_HANDSHAKE$/
  ]]
]

/** Returns the code that the process ends with for this error. */
export function exitCodeOf (error: unknown): ExitCode {
  if (error instanceof InterruptedError) return INTERRUPTIONS[error.by].code
  const known = error instanceof MidspanError ? error : asFileError(error)
  if (known === undefined) return EXIT.unexpected
  return CODES.find(([, patterns]) => patterns.some((pattern) => pattern.test(known.code)))?.[0] ?? EXIT.unexpected
}

function oneLine (text: string): string {
  return withoutInvites(text.replace(/\s*\r?\n\s*/g, ' ').trim())
}

/** Returns a text without the invites in it: they are secrets, and screens and logs are read by others. */
export function withoutInvites (text: string): string {
  return text.replace(/midspan:[A-Za-z0-9_-]{8,}/g, 'midspan:…')
}

/** Returns the one line that a failure prints: what and why, then what to do. */
export function errorLine (error: unknown): string {
  const known = error instanceof MidspanError ? error : asFileError(error)
  if (known !== undefined) return `midspan: ${oneLine(known.message)}${known.next === undefined ? '' : ` (${oneLine(known.next)})`}`
  const message = error instanceof Error ? error.message : String(error)
  return `midspan: ${oneLine(message)} (unexpected: run it again with --debug to see where it comes from, and report it)`
}
