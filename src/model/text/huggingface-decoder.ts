import type { Part } from './huggingface-patches.ts'

/** The characters that stand for bytes in byte-level vocabularies, with their bytes. */
export const byteCharacters: ReadonlyMap<string, number> = charactersOfBytes()

function charactersOfBytes (): Map<string, number> {
  const isShown = (byte: number): boolean => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  const characters = new Map<string, number>()
  let next = 256
  for (let byte = 0; byte < 256; byte++) characters.set(String.fromCharCode(isShown(byte) ? byte : next++), byte)
  return characters
}

const encoder = new TextEncoder()
/** Keeps U+FEFF, as its name does not say. */
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true })

/** Spaces that a decoder with `cleanup` leaves out, in the order in which it does so. */
const cleanups = [
  [' .', '.'], [' ?', '?'], [' !', '!'], [' ,', ','], [" ' ", "'"], [" n't", "n't"], [" 'm", "'m"], [' do not', " don't"],
  [" 's", "'s"], [" 've", "'ve"], [" 're", "'re"]
] as const

/**
 * Returns the text of some tokens, as a decoder of the Python library `tokenizers` makes it; their own with a space between them without
 * one. There is one difference: bytes that are no UTF-8 become U+FFFD one by one rather than in whole runs, so that what is written stays.
 */
export function decodeTokens (decoder: Part | null, tokens: readonly string[]): string {
  return decoder === null ? tokens.join(' ') : chain(decoder, tokens).join('')
}

function chain (decoder: Part, tokens: readonly string[]): readonly string[] {
  const { config = {}, pattern } = decoder
  switch (config.type) {
    case 'Sequence': return (decoder.decoders ?? []).reduce((made, step) => step === null ? made : chain(step, made), tokens)
    case 'ByteLevel': return [utf8.decode(Uint8Array.from(tokens.flatMap(bytesOf)))]
    case 'ByteFallback': return withoutByteTokens(tokens)
    case 'Fuse': return [tokens.join('')]
    case 'Metaspace': {
      const replacement = textOf(config.replacement, '\u2581')
      const drops = textOf(config.prepend_scheme, config.add_prefix_space === false ? 'never' : 'always') !== 'never'
      return tokens.map((token, i) => token.replaceAll(replacement, i === 0 && drops ? '' : ' '))
    }
    case 'WordPiece': {
      const prefix = textOf(config.prefix, '##')
      return tokens.map((token, i) => {
        const text = i === 0 ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`
        return config.cleanup === false ? text : cleaned(text)
      })
    }
    case 'BPEDecoder': return tokens.map((token, i) => token.replaceAll(textOf(config.suffix, '</w>'), i === tokens.length - 1 ? '' : ' '))
    case 'CTC': return connected(tokens, config)
    case 'Replace': {
      const content = textOf(config.content, '')
      return pattern === null || pattern === undefined ? tokens : tokens.map((token) => replaced(token, decoder, content))
    }
    case 'Strip': return tokens.map((token) => stripped(Array.from(token), config))
    default: throw new Error(`the decoder ${String(config.type)} is not known`)
  }
}

function textOf (value: unknown, otherwise: string): string {
  return typeof value === 'string' ? value : otherwise
}

/** Returns the bytes that a token stands for: those of its characters, or of its text where a character stands for none. */
function bytesOf (token: string): readonly number[] {
  const bytes = Array.from(token, (character) => byteCharacters.get(character))
  return bytes.includes(undefined) ? [...encoder.encode(token)] : bytes as number[]
}

/** Makes texts of the tokens that are bytes, such as `<0x0A>`: one of each run of them. */
function withoutByteTokens (tokens: readonly string[]): string[] {
  const made: string[] = []
  let run: number[] = []
  const end = (): void => {
    if (run.length > 0) made.push(utf8.decode(Uint8Array.from(run)))
    run = []
  }
  for (const token of tokens) {
    const [, hex] = /^<0x([0-9A-Fa-f]{2})>$/.exec(token) ?? []
    if (hex !== undefined) run.push(Number.parseInt(hex, 16))
    else {
      end()
      made.push(token)
    }
  }
  end()
  return made
}

/** Joins the tokens of connectionist temporal classification: of equal neighbours one is left, and none of padding. */
function connected (tokens: readonly string[], config: Readonly<Record<string, unknown>>): string[] {
  const [padding, delimiter] = [textOf(config.pad_token, '<pad>'), textOf(config.word_delimiter_token, '|')]
  return tokens.filter((token, i) => token !== tokens[i - 1]).flatMap((token) => {
    const text = token.replaceAll(padding, '')
    const made = config.cleanup === false ? text : cleaned(text).replaceAll(delimiter, ' ')
    return made === '' ? [] : [made]
  })
}

function cleaned (text: string): string {
  return cleanups.reduce((made, [from, to]) => made.replaceAll(from, to), text)
}

function replaced (token: string, { pattern, config = {} }: Part, content: string): string {
  const { String: literal } = (config.pattern ?? {}) as { String?: unknown }
  // A function, because a text may hold signs that stand for parts of a match.
  if (typeof literal === 'string') return token.replaceAll(literal, () => content)
  return token.replace(pattern as RegExp, () => content)
}

function stripped (characters: readonly string[], config: Readonly<Record<string, unknown>>): string {
  const { content, start = 0, stop = 0 } = config
  let [from, to] = [0, characters.length]
  while (from < Math.min(Number(start), to) && characters[from] === content) from++
  while (to > from && characters.length - to < Number(stop) && characters[to - 1] === content) to--
  return characters.slice(from, to).join('')
}
