/** Names and versions, as believed from a peer. */
const MAX_TEXT_CHARS = 200

/** A peer's text, fit for a log or a terminal: short, on one line, and without characters that steer either. */
export function plainText (text: string, maxChars = MAX_TEXT_CHARS): string {
  return text.slice(0, maxChars).replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ').trim()
}
