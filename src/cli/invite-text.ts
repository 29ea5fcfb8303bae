import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { asFileError, UsageError } from '../errors.ts'
import type { Terminal } from './terminal.ts'

/** An invite is shorter by far, also in a message with some words around it. */
const MAX_CHARACTERS = 64 * 1024

/** An invite that was broken into more pieces than this is no invite. */
const MAX_PIECES = 256

/** A text of more characters may be an invite that lost its beginning, and is not shown. */
const MAX_SHOWN_CHARACTERS = 64

const PREFIX = 'midspan:'

/** What mail programs put before the lines of a message that they quote. */
const QUOTE_MARKS = /^[ \t]*(?:>[ \t]*)+/gm

/** The soft line break of mail (RFC 2045, quoted-printable). */
const SOFT_BREAK = /=\r?\n/g

/** Marks of quotation and of code, characters without a width, and the zero bytes of UTF-16, that people copy along. */
const AROUND = /[\0"'`<>\u201c\u201d\u2018\u2019\u00ab\u00bb\u00ad\u200b-\u200d\u2060\ufeff]/g

/** What keyboards and word processors make of hyphens, two of them or one, of a colon, and of a letter at the beginning of a line. */
const TYPED: ReadonlyArray<readonly [RegExp, string]> = [
  [/[\u2013\u2014]/g, '--'], [/[\u2010\u2011\u2212]/g, '-'], [/midspan\s?(?::|\uff1a|%3a|&#58;)/gi, PREFIX]
]

/** A piece of an invite: base64url. */
const PIECE = /^[A-Za-z0-9_-]+$/

export interface InviteSource {
  /** The argument of the command; empty where there is none, `-` for standard input. */
  readonly argument: string
  readonly file: string | undefined
}

/**
 * Returns the invite, or the server's multiaddr, that the user gave: on the command line, in a file, or on standard input; a file and
 * standard input keep it from other users' eyes. Throws UsageError, which never says what was read: an invite is a secret.
 */
export async function readInvite (
  { argument, file }: InviteSource,
  terminal: Terminal,
  signal: AbortSignal,
  input: NodeJS.ReadableStream & { readonly isTTY?: boolean } = process.stdin
): Promise<string> {
  if (argument !== '' && file !== undefined)
    throw new UsageError('there are two invites', 'give one as the argument, or with --invite-file')
  if (file !== undefined) return checked(await fromStream(createReadStream(file), signal), file)
  if (argument === '')
    throw new UsageError(
      "missing required argument 'invite'",
      'give the line that midspan invite printed, --invite-file FILE, or - to read standard input'
    )
  if (argument !== '-') return checked(await inviteIn(argument), 'the argument')
  if (input.isTTY === true) terminal.note('Paste the invite, and press Enter:')
  return checked(await fromStream(input, signal), 'standard input')
}

/** Reads lines until they hold an invite or a multiaddr, or the stream ends. */
async function fromStream (input: NodeJS.ReadableStream, signal: AbortSignal): Promise<string> {
  const lines = createInterface({ input, signal })
  let text = ''
  try {
    for await (const line of lines) {
      text += `${line}\n`
      if (text.length > MAX_CHARACTERS)
        throw new UsageError('the text around the invite is too long', 'give the line that midspan invite printed')
      const found = await wholeInvite(text)
      if (found !== undefined) return found
      if (line.trim().startsWith('/')) break
    }
  } catch (error) {
    throw asFileError(error) ?? error
  } finally {
    lines.close()
  }
  signal.throwIfAborted()
  return await inviteIn(text)
}

function checked (invite: string, where: string): string {
  const next = 'copy the line that midspan invite printed, or an address such as /ip4/192.0.2.1/tcp/4001/p2p/12D3KooW…'
  if (invite === '') throw new UsageError(`there is no invite in ${where}`, next)
  if (!invite.startsWith(PREFIX) && !invite.startsWith('/') && invite.length > MAX_SHOWN_CHARACTERS)
    throw new UsageError(`${where} holds neither an invite nor a multiaddr`, next)
  return invite
}

/**
 * Returns the invite in a text that it was copied with: without line breaks, marks of quotation, and the words around it. Of a text that
 * holds no whole invite, the part that looks most like one; without white space around it where nothing does: it may be a multiaddr.
 */
export async function inviteIn (text: string): Promise<string> {
  const whole = await wholeInvite(text)
  if (whole !== undefined) return whole
  const bare = bareText(text)
  return bare.includes(PREFIX) ? piecesOf(bare).join('') : bare.trim()
}

/** Returns the invite in a text, or undefined where no part of the text is one whose signature is true. */
async function wholeInvite (text: string): Promise<string | undefined> {
  const pieces = piecesOf(bareText(text))
  if (pieces.length === 0) return undefined
  const { parseInvite } = await import('../protocols/hello/index.ts') // what commands without an invite need not load
  // Words that follow the invite may look like pieces of it.
  for (let count = pieces.length; count > 0; count--) {
    const candidate = pieces.slice(0, count).join('')
    if (await parseInvite(candidate).then(() => true, () => false)) return candidate
  }
  return undefined
}

function bareText (text: string): string {
  const bare = text.replace(QUOTE_MARKS, '').replace(SOFT_BREAK, '').replace(AROUND, '')
  return TYPED.reduce((corrected, [typed, meant]) => corrected.replace(typed, meant), bare)
}

/** Returns the parts of an invite that white space separates, the first with the prefix; none where the text has no prefix. */
function piecesOf (bare: string): readonly string[] {
  const start = bare.indexOf(PREFIX)
  if (start === -1) return []
  const words = bare.slice(start + PREFIX.length).trim().split(/\s+/, MAX_PIECES)
  const pieces: string[] = []
  for (const word of words) {
    const piece = word.replace(/[^A-Za-z0-9_-]+$/, '')
    if (!PIECE.test(piece)) break
    pieces.push(piece)
    if (piece !== word) break
  }
  return pieces.map((piece, index) => index === 0 ? PREFIX + piece : piece)
}
