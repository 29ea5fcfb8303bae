import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import type { TokenEngine } from './engine.ts'
import { TokenizerError } from './errors.ts'
import { byteCharacters, decodeTokens } from './huggingface-decoder.ts'
import { flattenConfig, matchLinearly, patchParts, trimSpaceEnd, type Part } from './huggingface-patches.ts'
import { TimeLimitError, withinTime } from './time-limit.ts'

interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
  readonly single_word: boolean
  readonly lstrip: boolean
  readonly rstrip: boolean
  readonly normalized: boolean
}

/** What is used of the library's class, whose published declarations do not resolve under Node's module rules. */
interface Library {
  encode: (text: string, options: { add_special_tokens: boolean }) => { ids: Array<number | undefined> }
  token_to_id: (token: string) => number | undefined
  encode_text: (text: string | null) => string[] | null
  readonly added_tokens: readonly AddedToken[]
  readonly special_tokens: readonly string[]
  model: { (tokens: string[]): string[], readonly vocab: ReadonlyArray<string | undefined> }
  readonly normalizer: ((text: string) => string) | null
  readonly pre_tokenizer: ((text: string, options: { section_index: number }) => string[]) | null
  readonly splitter_unnormalized: Splitter
  readonly splitter_normalized: Splitter
}

interface Splitter {
  split: (text: string) => string[]
}

const Library = HuggingFaceTokenizer as unknown as new (tokenizer: object, config: object) => Library

/** How long a text may take, where patterns of the file divide it: published ones take a tenth of a second for a megabyte. */
interface TimeLimit {
  readonly timeoutMs: number
  readonly msPerCharacter: number
}
const LIMIT: TimeLimit = { timeoutMs: 10_000, msPerCharacter: 0.1 }

/** After a tenth of the limit a pattern is likely to be one that takes exponential time, and RE2 takes its place where it can. */
const FIRST_SHARE = 0.1

/**
 * Returns the engine of a parsed tokenizer.json. Texts and ids are those of the Python `tokenizers` library, but for byte tokens that are
 * no UTF-8 (see `decodeTokens`). Spaces are never "cleaned up": the text of some ids is what they were made of. Throws the library's
 * errors, and TokenizerError for what the library does otherwise than Python's. Its functions throw TokenizerError for a text that takes
 * too long.
 */
export function huggingFaceEngine (tokenizer: object, tokenizerConfig: object = {}, limit: TimeLimit = LIMIT): TokenEngine {
  const library = new Library(tokenizer, tokenizerConfig)
  const { normalizer, pre_tokenizer: preTokenizer, decoder, model } = tokenizer as Readonly<Record<string, unknown>>
  const modelConfig = (model ?? {}) as Readonly<Record<string, unknown>>
  const { continuing_subword_prefix: prefix, type, unk_token: unknown, byte_fallback: fallsBack } = modelConfig
  if (type === 'BPE' && typeof prefix === 'string' && prefix !== '')
    throw new TokenizerError('a continuing_subword_prefix of BPE is not read as the Python library does')
  const parts = library as unknown as Readonly<Record<'normalizer' | 'pre_tokenizer' | 'decoder', Part | null>>
  patchParts(parts, { normalizer, pre_tokenizer: preTokenizer })
  const bytes = type === 'Unigram' && fallsBack === true ? (token: string) => byteTokens(library, token) : undefined
  const encodeText = textEncoder(library, bytes)
  library.encode_text = (text) => text === null ? null : encodeText(text)
  if (type === 'BPE' && fallsBack !== true && (unknown ?? null) === null && !isOfBytes(library, preTokenizer)) dropUnknown(library)
  // The library has no model of whole words: it gives words outside the vocabulary no id.
  const unknownId = type === 'WordLevel' && typeof unknown === 'string' ? library.token_to_id(unknown) : undefined
  const special = new Set(library.special_tokens)
  const encoding = limited(holdsPattern(normalizer) || holdsPattern(preTokenizer), [parts.normalizer, parts.pre_tokenizer], limit)
  const decoding = limited(holdsPattern(decoder), [parts.decoder], limit)
  return {
    encode: (text, addSpecialTokens) =>
      encoding(text.length, () => library.encode(text, { add_special_tokens: addSpecialTokens }).ids)
        .map((id) => id ?? unknownId).filter((id) => id !== undefined),
    decode: (ids, skipSpecialTokens) => {
      const known = ids.filter((id) => library.model.vocab[id] !== undefined)
      if (known.length === 0) return ''
      const names = known.map((id) => library.model.vocab[id]!).filter((name) => !skipSpecialTokens || !special.has(name))
      return decoding(known.length, () => decodeTokens(parts.decoder, names))
    },
    idOf: (token) => library.token_to_id(token),
    nameOf: (id) => library.model.vocab[id],
    appendsText: appends(decoder)
  }
}

/**
 * Returns what runs work on a text of so many characters, within the limit where the parts have patterns of the file. Once a text takes a
 * share of the limit, RE2 matches all patterns that it can. What is returned throws TokenizerError where the work fails or takes too long.
 */
function limited (hasPatterns: boolean, parts: ReadonlyArray<Part | null>, { timeoutMs, msPerCharacter }: TimeLimit) {
  let linear = false
  return <T>(characters: number, run: () => T): T => {
    if (!hasPatterns) return run()
    const within = (share: number): T => withinTime(Math.ceil(share * (timeoutMs + msPerCharacter * characters)), run)
    try {
      if (linear) return within(1)
      try {
        return within(FIRST_SHARE)
      } catch (error) {
        if (!(error instanceof TimeLimitError)) throw error
        linear = true
        matchLinearly(parts)
        return within(1)
      }
    } catch (error) {
      throw new TokenizerError(`the tokenizer failed on a text: ${error instanceof Error ? error.message : String(error)}`, undefined, error)
    }
  }
}

/** Returns whether texts are made of the characters that stand for bytes, all of which the vocabulary has. */
function isOfBytes (library: Library, preTokenizer: unknown): boolean {
  const ofBytes = flattenConfig(preTokenizer).some(({ type }) => type === 'ByteLevel')
  return ofBytes && [...byteCharacters.keys()].every((character) => library.token_to_id(character) !== undefined)
}

/** Has a model without an unknown token leave out the characters that it does not know before it joins those on either side of them. */
function dropUnknown (library: Library): void {
  const { model } = library
  const known = (text: string): boolean => library.token_to_id(text) !== undefined
  const encode = (words: string[]): string[] => model(words.map((word) => known(word) ? word : Array.from(word).filter(known).join('')))
  library.model = Object.assign(encode, model)
}

/** Returns the tokens of the bytes of a text, where the vocabulary has all of them. The library's model knows them for BPE alone. */
function byteTokens (library: Library, text: string): string[] | undefined {
  const tokens = Array.from(new TextEncoder().encode(text), (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  return tokens.every((token) => library.token_to_id(token) !== undefined) ? tokens : undefined
}

/**
 * Returns what divides a text at the added tokens that are written in it, as the Python library does, and encodes what is between them.
 * `bytes` are the tokens for what is in no other token, where there are such. The library's parts are read when a text comes: some of them
 * are replaced after this.
 */
function textEncoder (library: Library, bytes?: (token: string) => string[] | undefined): (text: string) => string[] {
  const added = (wanted: boolean): ReadonlyMap<string, AddedToken> => {
    const { normalizer } = library
    return new Map(library.added_tokens.filter((token) => (token.normalized && normalizer !== null) === wanted)
      .map((token) => [wanted ? normalizer!(token.content) : token.content, token]))
  }
  let tokens: Readonly<Record<'plain' | 'normalized', ReadonlyMap<string, AddedToken>>> | undefined
  const isKnown = (token: string): boolean => library.token_to_id(token) !== undefined
  return (text) => {
    const { normalizer, pre_tokenizer: preTokenizer } = library
    const { plain, normalized } = tokens ??= { plain: added(false), normalized: added(true) }
    return withoutAdded(text, library.splitter_unnormalized, plain).flatMap((part) => {
      if (part.token !== undefined) return [part.token]
      const changed = normalizer === null ? part.text : normalizer(part.text)
      return withoutAdded(changed, library.splitter_normalized, normalized).flatMap((inner) => {
        if (inner.token !== undefined) return [inner.token]
        if (inner.text === '') return []
        const first = part.start === 0 && inner.start === 0
        const words = preTokenizer === null ? [inner.text] : preTokenizer(inner.text, { section_index: first ? 0 : 1 })
        // Each by itself: what is unknown is one token within a word, and never over several.
        const found = words.flatMap((word) => library.model([word]))
        return bytes === undefined ? found : found.flatMap((token) => isKnown(token) ? [token] : bytes(token) ?? [token])
      })
    })
  }
}

interface Section {
  readonly start: number
  readonly text: string
  /** The content of the added token that the section is. */
  readonly token?: string
}

function withoutAdded (text: string, splitter: Splitter, tokens: ReadonlyMap<string, AddedToken>): Section[] {
  if (tokens.size === 0) return [{ start: 0, text }]
  const sections: Section[] = []
  let [at, done] = [0, 0]
  for (const piece of splitter.split(text)) {
    const start = at
    const end = at + piece.length
    at = end
    const token = tokens.get(piece)
    if (token === undefined || start < done || (token.single_word && !standsAlone(text, start, end))) continue
    const from = token.lstrip ? Math.max(done, trimSpaceEnd(text.slice(0, start)).length) : start
    if (from > done) sections.push({ start: done, text: text.slice(done, from) })
    sections.push({ start: from, text: piece, token: token.content })
    done = token.rstrip ? end + /^\p{White_Space}*/u.exec(text.slice(end))![0].length : end
  }
  if (done < text.length) sections.push({ start: done, text: text.slice(done) })
  return sections
}

function standsAlone (text: string, start: number, end: number): boolean {
  const word = '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u200c\\u200d]'
  return !new RegExp(`${word}$`, 'u').test(text.slice(Math.max(0, start - 2), start)) && !new RegExp(`^${word}`, 'u').test(text.slice(end, end + 2))
}

/** Returns whether a part of the file has a regular expression. */
function holdsPattern (part: unknown): boolean {
  if (typeof part !== 'object' || part === null) return false
  return Object.entries(part).some(([name, value]) => name === 'Regex' || holdsPattern(value))
}

interface DecoderConfig {
  readonly type?: unknown
  readonly decoders?: unknown
  readonly stop?: unknown
  readonly pattern?: { readonly String?: unknown } | null
}

/** Returns whether a further token never changes the text of those before it. */
function appends (decoder: unknown): boolean {
  const steps = stepsOf(decoder)
  let joined = false
  return steps.every(({ type, stop, pattern }) => {
    const literal = pattern?.String
    switch (type) {
      case 'ByteLevel': case 'Metaspace': case 'WordPiece': return !joined
      case 'Fuse': case 'ByteFallback':
        joined = true
        return true
      // In a joined text a longer pattern could match across two tokens.
      case 'Replace': return !joined || (typeof literal === 'string' && literal.length === 1)
      case 'Strip': return stop === 0 || stop === undefined
      default: return false
    }
  })
}

function stepsOf (decoder: unknown): DecoderConfig[] {
  if (typeof decoder !== 'object' || decoder === null) return []
  const { type, decoders } = decoder as DecoderConfig
  return type === 'Sequence' && Array.isArray(decoders) ? decoders.flatMap(stepsOf) : [decoder]
}
