/** Takes log lines: pino's logger, and anything shaped like it. Never text, tokens or tensors. */
export interface Logger {
  debug (details: object, message: string): void
  info (details: object, message: string): void
  warn (details: object, message: string): void
  error (details: object, message: string): void
}
