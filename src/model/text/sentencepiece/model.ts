import { TokenizerError } from '../errors.ts'
import { bpeSegmenter } from './bpe.ts'
import { decodeBytes } from './decode.ts'
import type { ModelFile, Piece } from './file.ts'
import { Normalizer, SPACE_SYMBOL, utf8 } from './normalizer.ts'
import type { Segmentable, Segmenter } from './segment.ts'
import { Trie } from './trie.ts'
import { unigramSegmenter } from './unigram.ts'

const bytePiece = /^<0x([0-9A-F]{2})>$/

/** A SentencePiece model (https://arxiv.org/abs/1808.06226): text to ids and back as the reference implementation does it. */
export class SentencePieceModel {
  readonly pieces: readonly Piece[]
  /** The pieces that begin and end a sequence. */
  readonly bos: string
  readonly eos: string
  readonly #file: ModelFile
  readonly #ids: ReadonlyMap<string, number>
  readonly #unknownId: number
  readonly #normalizer: Normalizer
  readonly #segment: Segmenter

  /** Throws TokenizerError for a vocabulary that cannot be; `path` names its file. */
  constructor (file: ModelFile, path: string) {
    this.pieces = file.pieces
    this.bos = file.bos
    this.eos = file.eos
    this.#file = file
    this.#ids = new Map(file.pieces.map(({ text }, id) => [text, id]))
    if (this.#ids.size < file.pieces.length) throw new TokenizerError(`${path}: two pieces of its vocabulary are the same`)
    this.#unknownId = file.pieces.findIndex(({ kind }) => kind === 'unknown')
    if (this.#unknownId < 0) throw new TokenizerError(`${path}: its vocabulary has no unknown piece`)
    if (file.byteFallback && this.#bytes(Uint8Array.from({ length: 256 }, (_, byte) => byte)).includes(this.#unknownId))
      throw new TokenizerError(`${path}: its vocabulary lacks byte pieces, which it says it has`)
    const userDefined = new Trie()
    file.pieces.forEach(({ text, kind }, id) => { if (kind === 'userDefined') userDefined.add(utf8(text), id) })
    this.#normalizer = new Normalizer({ ...file, userDefined })
    this.#segment = (file.algorithm === 'bpe' ? bpeSegmenter : unigramSegmenter)(segmentable(file.pieces))
  }

  /** Returns the id of a piece, of whatever kind. */
  idOf (text: string): number | undefined {
    return this.#ids.get(text)
  }

  /** Returns the ids of a text, none of which is a control piece. `dummyPrefix`: whether it begins a word, where the model marks that. */
  encode (text: string, dummyPrefix = true): number[] {
    const ids: number[] = []
    let unknownBefore = false
    for (const { text: part, id } of this.#segment(this.#normalizer.normalize(text, dummyPrefix))) {
      const known = id !== undefined && id !== this.#unknownId
      if (known) ids.push(id)
      else if (this.#file.byteFallback) ids.push(...this.#bytes(utf8(part)))
      else if (!unknownBefore) ids.push(this.#unknownId) // a run of unknown characters is one token
      unknownBefore = !known
    }
    return ids
  }

  /**
   * Returns the text of these ids. Control pieces, and ids beyond the vocabulary, have none. `start`: whether a text begins with them,
   * which the mark of its first word does not belong to.
   */
  decode (ids: readonly number[], start = true): string {
    let text = ''
    let atStart = start
    let bytes: number[] = []
    const endBytes = (): void => {
      text += decodeBytes(bytes)
      bytes = []
    }
    for (const id of ids) {
      const piece = this.pieces[id]
      const byte = piece?.kind === 'byte' ? bytePiece.exec(piece.text)?.[1] : undefined
      if (byte !== undefined) {
        bytes.push(Number.parseInt(byte, 16))
        continue
      }
      endBytes()
      atStart &&= text === ''
      if (piece === undefined || piece.kind === 'control') continue
      if (piece.kind === 'unknown') {
        text += this.#file.unknownText
        continue
      }
      const { shown, marked } = this.#show(piece.text, atStart)
      text += shown
      atStart &&= !marked
    }
    endBytes()
    return text
  }

  #bytes (bytes: Iterable<number>): number[] {
    return Array.from(bytes, (byte) => this.#ids.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`) ?? this.#unknownId)
  }

  /** Returns a piece as text, without the mark where it starts a text; `marked` says that the mark was the one that encoding adds. */
  #show (piece: string, atStart: boolean): { readonly shown: string, readonly marked: boolean } {
    const { addDummyPrefix, removeExtraWhitespaces } = this.#file
    const without = atStart && piece.startsWith(SPACE_SYMBOL) && (addDummyPrefix || removeExtraWhitespaces)
    return { shown: (without ? piece.slice(1) : piece).replaceAll(SPACE_SYMBOL, ' '), marked: without && !removeExtraWhitespaces }
  }
}

function segmentable (pieces: readonly Piece[]): Segmentable[] {
  return pieces.flatMap(({ text, score, kind }, id) =>
    kind === 'normal' || kind === 'userDefined' || kind === 'unused' ? [{ id, text, score, kind }] : []
  )
}
