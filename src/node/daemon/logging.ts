import pino, { type Logger as PinoLogger } from 'pino'
import type { Settings } from '../home/settings.ts'

/** A log of JSON lines in a file that its owner alone may read. Each line is written at once, so that a crash loses none. */
export function openLog (path: string, level: Settings['logLevel']): PinoLogger {
  const destination = pino.destination({ dest: path, append: true, sync: true, mode: 0o600 })
  destination.on('error', () => {}) // a full disk costs lines of the log, not the daemon
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination)
}
