import type { Tokenizer } from './tokenizer.ts'

/** Where the characters of a text are among its tokens. Positions of the text are in UTF-16 units. */
export interface TokenPlaces {
  /** The first token that reaches beyond a position. */
  readonly reaching: (position: number) => number
  /** The first token that begins at or after a position. */
  readonly from: (position: number) => number
}

/**
 * Finds where the tokens of a text lie: by the text of each token, or, where a tokenizer changes texts, by encoding the text up to the
 * position that is asked for.
 */
export function placeTokens (text: string, ids: readonly number[], tokenizer: Tokenizer): TokenPlaces {
  const ranges = align(text, ids, tokenizer)
  if (ranges === undefined) {
    const before = (position: number): [number, number] => {
      const prefix = tokenizer.encodeRendered(text.slice(0, position))
      return [commonLength(prefix, ids), prefix.length]
    }
    return {
      reaching: (position) => before(position)[0],
      from: (position) => {
        const [common, length] = before(position)
        return common < length && common < ids.length ? common + 1 : common
      }
    }
  }
  const first = (holds: (range: readonly [number, number]) => boolean): number => {
    const found = ranges.findIndex(holds)
    return found < 0 ? ranges.length : found
  }
  return { reaching: (position) => first(([, end]) => end > position), from: (position) => first(([start]) => start >= position) }
}

/** Returns how many leading ids agree. */
export function commonLength (prefix: readonly number[], ids: ArrayLike<number>): number {
  let length = 0
  while (length < prefix.length && length < ids.length && prefix[length] === ids[length]) length++
  return length
}

/** A word that stands before a token, so that the token decodes as within a text. */
const ANCHOR = 'a'

const pieces = new WeakMap<Tokenizer, Map<number, string>>()

/** Returns the text of each token as it is within a text. Of a character that is made of several tokens, the last has the text. */
export function tokenTexts (ids: readonly number[], tokenizer: Tokenizer): string[] {
  return [...pieceGroups(ids, tokenizer)].flatMap(({ text, tokens }) => [...Array.from({ length: tokens - 1 }, () => ''), text])
}

/** Tokens that follow each other and have a text together: one token, or those of one character. */
interface PieceGroup {
  readonly tokens: number
  readonly text: string
}

/** The most tokens that one character is made of: bytes of a character and those of its neighbours. */
const MAX_GROUP_TOKENS = 16

/** Divides tokens into groups that have a text of their own, and yields their texts. */
function * pieceGroups (ids: readonly number[], tokenizer: Tokenizer): Generator<PieceGroup> {
  const anchor = tokenizer.encode(ANCHOR, { addSpecialTokens: false })
  const anchorText = tokenizer.decode(anchor, { skipSpecialTokens: false })
  const known = pieces.get(tokenizer) ?? new Map<number, string>()
  pieces.set(tokenizer, known)
  const textOf = (group: readonly number[]): string => {
    const [id] = group
    const before = group.length === 1 ? known.get(id!) : undefined
    if (before !== undefined) return before
    const found = tokenizer.decode([...anchor, ...group], { skipSpecialTokens: false }).slice(anchorText.length)
    if (group.length === 1) known.set(id!, found)
    return found
  }
  let group: number[] = []
  for (const [i, id] of ids.entries()) {
    group.push(id)
    const text = textOf(group)
    // A part of a character: the next token has more of it.
    if (text.includes('\ufffd') && i + 1 < ids.length && group.length < MAX_GROUP_TOKENS) continue
    yield { tokens: group.length, text }
    group = []
  }
}

/** Returns the [start, end) of each token in a text; undefined where the tokens' own texts are not the text. */
function align (text: string, ids: readonly number[], tokenizer: Tokenizer): Array<readonly [number, number]> | undefined {
  const ranges: Array<readonly [number, number]> = []
  let at = 0
  for (const { tokens, text: piece } of pieceGroups(ids, tokenizer)) {
    const end = match(text, at, piece)
    if (end === undefined) return undefined
    for (let token = 0; token < tokens; token++) ranges.push([at, end])
    at = end
  }
  return text.slice(at).trim() === '' ? ranges : undefined
}

/** Returns where a token's text ends. A decoder may add a space or leave one out. */
function match (text: string, from: number, piece: string): number | undefined {
  let at = from
  for (const unit of piece.split('')) {
    if (text[at] === unit) at++
    else if (unit !== ' ') {
      if (text[at] !== ' ' || text[at + 1] !== unit) return undefined
      at += 2
    }
  }
  return at
}
