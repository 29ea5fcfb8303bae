import type { TokenEngine } from './engine.ts'
import { TokenizerError } from './errors.ts'
import type { ModelFile, Piece } from './sentencepiece/file.ts'
import { SentencePieceModel } from './sentencepiece/model.ts'
import { controlPieces, SentencePieceEngine } from './sentencepiece-engine.ts'
import type { Json } from './tokenizer-config.ts'

// The tokenizers of https://huggingface.co/THUDM/chatglm-6b, chatglm2-6b and chatglm3-6b, which their directories describe in Python code.

/** The longest run of spaces that is one token of ChatGLM-6B. */
const LONGEST_BLANK = 80

/** How many ids the first revision of ChatGLM-6B keeps for images, before those of text. */
const IMAGE_TOKENS = 20_000

const chatGlmSpecial = ['[MASK]', '[gMASK]', '[sMASK]', '<unused_0>', '<sop>', '<eop>', '<ENC>', '<dBLOCK>'] as const

/**
 * ChatGLM-6B, from its `ice_text.model`: blanks and line ends are tokens, a context is closed by [gMASK] and <sop>. The file of the first
 * revision holds text pieces alone, to which the special ones are added here, and its ids begin after the image tokens.
 */
export function chatGlmEngine (file: ModelFile, path: string, tokenizerConfig: Json, config: Json): TokenEngine {
  const whole = file.pieces.some(({ text }) => text === '[gMASK]')
  const model = new SentencePieceModel(whole ? file : { ...file, byteFallback: true, pieces: [...file.pieces, ...chatGlmPieces()] }, path)
  const idOf = (piece: string): number => {
    const id = model.idOf(piece)
    if (id === undefined) throw new TokenizerError(`${path} has no piece ${piece}, which ChatGLM-6B needs`)
    return id
  }
  const special = new Map([...controlPieces(model), ...chatGlmSpecial.map((token) => [idOf(token), token] as const)])
  const offset = imageOffset(model, tokenizerConfig, config)
  const blanks = blankLengths.map((length): [number, string] => [idOf(blankPiece(length)), ' '.repeat(length)])
  const engine = new SentencePieceEngine(model, {
    special,
    written: new Map([...special].map(([id, token]) => [token, [id]])),
    shown: new Map([[idOf('<n>'), '\n'], [idOf(TAB_PIECE), '\t'], ...blanks]),
    after: [idOf('[gMASK]'), idOf('<sop>')]
  })
  return {
    encode: (text, addSpecialTokens) => engine.encode(withBlanks(text), addSpecialTokens).map((id) => id + offset),
    decode: (ids, skipSpecialTokens) => engine.decode(ids.filter((id) => id >= offset).map((id) => id - offset), skipSpecialTokens),
    idOf: (token) => {
      const id = engine.idOf(token)
      return id === undefined ? undefined : id + offset
    },
    nameOf: (id) => engine.nameOf(id - offset),
    bosToken: '<sop>',
    eosToken: '<eop>',
    answersContexts: true
  }
}

const TAB_PIECE = '<|tab|>'

/** The lengths of the runs of spaces that are one token. */
const blankLengths = Array.from({ length: LONGEST_BLANK - 1 }, (_, i) => i + 2)

function blankPiece (length: number): string {
  return `<|blank_${length}|>`
}

function chatGlmPieces (): Piece[] {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  const of = (kind: Piece['kind']) => (text: string): Piece => ({ text, score: 0, kind })
  return [
    ...chatGlmSpecial.map(of('control')),
    ...[TAB_PIECE, ...blankLengths.map(blankPiece)].map(of('userDefined')),
    ...bytes.map(of('byte'))
  ]
}

function imageOffset (model: SentencePieceModel, { num_image_tokens: stated }: Json, { vocab_size: vocabularySize }: Json): number {
  if (Number.isSafeInteger(stated) && (stated as number) >= 0) return stated as number
  return typeof vocabularySize === 'number' && vocabularySize >= model.pieces.length + IMAGE_TOKENS ? IMAGE_TOKENS : 0
}

function withBlanks (text: string): string {
  return text.replaceAll('\n', '<n>').replaceAll('\t', TAB_PIECE).replace(
    new RegExp(` {2,${LONGEST_BLANK}}`, 'g'),
    ({ length }) => blankPiece(length)
  )
}

const chatGlm2Special = ['[MASK]', '[gMASK]', '[sMASK]', 'sop', 'eop'] as const
const chatGlm3Roles = ['<|system|>', '<|user|>', '<|assistant|>', '<|observation|>'] as const

/**
 * ChatGLM2 and 3, from their `tokenizer.model`: special tokens follow its vocabulary, and [gMASK] and sop stand before a text. `sop` is
 * read as a token only where a chat template writes it, after [gMASK]: it is a part of ordinary words.
 */
export function chatGlm23Engine (model: SentencePieceModel, version: 2 | 3): TokenEngine {
  const added = [...chatGlm2Special, ...(version === 3 ? chatGlm3Roles : [])]
  const idOf = new Map(added.map((token, i) => [token as string, model.pieces.length + i]))
  const special = new Map([...controlPieces(model), ...[...idOf].map(([token, id]) => [id, token] as const)])
  const start = ['[gMASK]', 'sop'].map((token) => idOf.get(token)!)
  const written = new Map([...special].filter(([, token]) => token !== 'sop' && token !== 'eop').map(([id, token]) => [token, [id]]))
  const engine = new SentencePieceEngine(model, { special, written: written.set('[gMASK]sop', start), before: start })
  return {
    encode: (text, addSpecialTokens) => engine.encode(text, addSpecialTokens),
    decode: (ids, skipSpecialTokens) => engine.decode(ids, skipSpecialTokens),
    idOf: (token) => engine.idOf(token),
    nameOf: (id) => engine.nameOf(id),
    bosToken: engine.bosToken,
    eosToken: engine.eosToken,
    stopTokens: version === 3 ? ['<|user|>', '<|observation|>'] : []
  }
}
