import { pretrainingDocuments } from './corpus.ts'

/** Every word of the valley comes up many times in as many documents. */
const sampleDocuments = 20_000
/** More than the valley's words need; learning stops when each is one token. */
const maxVocabulary = 1024

/** Bytes that byte-level BPE writes as themselves; the others become the letters from U+0100 on (GPT-2's table). */
const printable = [[0x21, 0x7e], [0xa1, 0xac], [0xae, 0xff]] as const

/** The pieces that byte-level BPE splits text into before merging (GPT-2's expression). */
const pieces = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu

export const specialTokens = ['<unk>', '<s>', '</s>'] as const
export const bosId = 1
export const eosId = 2

/** tokenizer.json, of which the model needs the size of the vocabulary. */
export interface TokenizerFile extends Readonly<Record<string, unknown>> {
  readonly model: Readonly<Record<string, unknown>> & { readonly vocab: Readonly<Record<string, number>> }
}

interface Word {
  symbols: string[]
  readonly count: number
}

/** Returns the tokenizer of the demo's model, as the contents of its tokenizer.json. */
export function makeTokenizer (): TokenizerFile {
  const documents = pretrainingDocuments('tokenizer 1')
  return trainTokenizer(Array.from({ length: sampleDocuments }, () => documents.next().value), maxVocabulary)
}

/**
 * Learns a byte-level BPE of `size` tokens from texts: any text can be written in it, and frequent words are one token each.
 * Returns the contents of a tokenizer.json in the Hugging Face format.
 */
function trainTokenizer (texts: Iterable<string>, size: number): TokenizerFile {
  const letters = byteLetters()
  const vocabulary = [...specialTokens, ...letters]
  const words = countWords(texts, letters)
  const merges: Array<[string, string]> = []
  while (vocabulary.length < size) {
    const best = mostFrequentPair(words)
    if (best === undefined) break
    merges.push(best)
    vocabulary.push(best[0] + best[1])
    for (const word of words) word.symbols = merge(word.symbols, best)
  }
  return tokenizerFile(vocabulary, merges)
}

function byteLetters (): string[] {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = printable.some(([first, last]) => byte >= first && byte <= last)
    return String.fromCodePoint(isPrintable ? byte : next++)
  })
}

function countWords (texts: Iterable<string>, letters: readonly string[]): Word[] {
  const counts = new Map<string, number>()
  for (const text of texts) {
    for (const [piece] of text.matchAll(pieces)) counts.set(piece, (counts.get(piece) ?? 0) + 1)
  }
  return [...counts].map(([piece, count]) => ({ symbols: Array.from(Buffer.from(piece), (byte) => letters[byte]!), count }))
}

/** Returns the pair of neighbours that occurs most often; of several, the first in string order, so that the result never varies. */
function mostFrequentPair (words: readonly Word[]): [string, string] | undefined {
  const counts = new Map<string, number>()
  for (const { symbols, count } of words) {
    for (let i = 1; i < symbols.length; i++) {
      const pair = `${symbols[i - 1]} ${symbols[i]}`
      counts.set(pair, (counts.get(pair) ?? 0) + count)
    }
  }
  let best: string | undefined
  for (const [pair, count] of counts) {
    const most = best === undefined ? 0 : counts.get(best)!
    if (count > most || (count === most && best !== undefined && pair < best)) best = pair
  }
  return best?.split(' ') as [string, string] | undefined
}

function merge (symbols: readonly string[], [left, right]: readonly [string, string]): string[] {
  const merged: string[] = []
  for (let i = 0; i < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) {
      merged.push(left + right)
      i++
    } else {
      merged.push(symbols[i]!)
    }
  }
  return merged
}

function tokenizerFile (vocabulary: readonly string[], merges: ReadonlyArray<readonly [string, string]>): TokenizerFile {
  const special = (id: number) => ({
    id,
    content: specialTokens[id],
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true
  })
  const start = { SpecialToken: { id: specialTokens[bosId], type_id: 0 } }
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((_, id) => special(id)),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: {
      type: 'TemplateProcessing',
      single: [start, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [start, { Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { [specialTokens[bosId]]: { id: specialTokens[bosId], ids: [bosId], tokens: [specialTokens[bosId]] } }
    },
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges
    }
  }
}
