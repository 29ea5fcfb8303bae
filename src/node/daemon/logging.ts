import { renameSync, statSync } from 'node:fs'
import pino, { type Logger as PinoLogger } from 'pino'
import { MidspanError } from '../../errors.ts'
import type { Settings } from '../home/settings.ts'
import { LogLimit } from './log-limit.ts'

/** A log that has grown to this size is put aside: `daemon.log` becomes `daemon.log.1`, that one `daemon.log.2`, and so on. */
const MAX_LOG_BYTES = 10 * 2 ** 20

/** Logs that were put aside and are kept. */
const KEPT_LOGS = 4

/** How often it is told how many lines were left out. */
const TELL_INTERVAL_MS = 60_000

/** Lines from this level on are written whatever their number: somebody has to see each of them. */
const ERROR_LEVEL = 50

export interface LogOptions {
  readonly maxBytes?: number
  readonly limit?: LogLimit
}

/**
 * Opens a log of JSON lines in a file that its owner alone may read. Each line is written at once, so that a crash loses none. The file is
 * put aside when it is full, and lines of one kind are bounded.
 */
export function openLog (path: string, level: Settings['logLevel'], { maxBytes = MAX_LOG_BYTES, limit = new LogLimit() }: LogOptions = {}): PinoLogger {
  const destination = pino.destination({ dest: path, append: true, sync: true, mode: 0o600 })
  destination.on('error', () => {}) // a full disk costs lines of the log, not the daemon
  let sizeBytes = sizeOf(path)
  // A library that rotates files writes them later than at once: the last lines before a crash, which matter most, would be lost.
  destination.on('write', (bytes: number) => {
    sizeBytes += bytes
    if (sizeBytes < maxBytes) return
    rotate(path)
    destination.reopen(path)
    sizeBytes = 0
  })
  const tellLeftOut = (): void => {
    for (const { kind, count } of limit.takeLeftOut()) logger.info({}, `… and ${count} more like it: ${kind}`)
  }
  const logger: PinoLogger = pino({
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: errorLine },
    hooks: {
      logMethod (line, write, lineLevel) {
        const [details, message] = line as unknown as [Record<string, unknown>, string | undefined]
        const about = details.peer ?? details.address
        const subject = typeof about === 'string' ? about : ''
        if (lineLevel >= ERROR_LEVEL || message?.startsWith('… and') === true || limit.allows(message ?? '', subject)) write.apply(this, line)
      }
    }
  }, destination)
  setInterval(tellLeftOut, TELL_INTERVAL_MS).unref()
  return logger
}

/** Errors that the runtime throws for a defect: where they come from has to be known. */
const DEFECTS = ['Error', 'TypeError', 'RangeError', 'ReferenceError', 'SyntaxError', 'EvalError', 'URIError', 'AssertionError']

/** Describes an error for the log: what is thrown on purpose by what it says, and a defect with its stack. */
function errorLine (error: unknown): object {
  if (!(error instanceof Error)) return { message: String(error) }
  const { code, syscall } = error as NodeJS.ErrnoException
  const isExpected = error instanceof MidspanError || syscall !== undefined || !DEFECTS.includes(error.name)
  if (!isExpected) return pino.stdSerializers.err(error)
  return {
    type: error.name,
    ...(code === undefined ? {} : { code }),
    message: error.message,
    ...(error.cause === undefined ? {} : { cause: errorLine(error.cause) })
  }
}

function sizeOf (path: string): number {
  try {
    return statSync(path).size
  } catch {
    return 0
  }
}

/** Puts a full log aside. */
function rotate (path: string): void {
  for (let number = KEPT_LOGS - 1; number >= 0; number--) {
    try {
      renameSync(number === 0 ? path : `${path}.${number}`, `${path}.${number + 1}`)
    } catch {
      // There is no such log yet.
    }
  }
}
