import type { TokenEngine } from './engine.ts'
import type { SentencePieceModel } from './sentencepiece/model.ts'

export interface SentencePieceOptions {
  /** Tokens that stand for themselves, by their ids: control pieces, and tokens after the model's own. */
  readonly special: ReadonlyMap<number, string>
  /** Texts that are these tokens wherever they are written. */
  readonly written: ReadonlyMap<string, readonly number[]>
  /** Pieces whose text is another than their name. */
  readonly shown?: ReadonlyMap<number, string>
  /** What the model puts around a text. */
  readonly before?: readonly number[]
  readonly after?: readonly number[]
  /** Whether text that follows a special token begins a word, as text at the start does. */
  readonly prefixEach?: boolean
}

/** Text to ids by a SentencePiece model, around the special tokens that are written in the text. */
export class SentencePieceEngine implements TokenEngine {
  readonly bosToken: string
  readonly eosToken: string
  readonly #model: SentencePieceModel
  readonly #options: SentencePieceOptions
  readonly #ids: ReadonlyMap<string, number>
  readonly #border: RegExp | undefined

  constructor (model: SentencePieceModel, options: SentencePieceOptions) {
    this.bosToken = model.bos
    this.eosToken = model.eos
    this.#model = model
    this.#options = options
    this.#ids = new Map([...options.special].map(([id, token]) => [token, id]))
    const written = [...options.written.keys()].filter((text) => text !== '').sort((a, b) => b.length - a.length)
    if (written.length > 0) this.#border = new RegExp(`(${written.map(escapePattern).join('|')})`)
  }

  encode (text: string, addSpecialTokens: boolean): number[] {
    const { written, before = [], after = [], prefixEach = true } = this.#options
    const ids: number[] = []
    const parts = this.#border === undefined ? [text] : text.split(this.#border)
    parts.forEach((part, i) => {
      const tokens = written.get(part)
      if (tokens !== undefined) ids.push(...tokens)
      else if (part !== '') for (const id of this.#model.encode(part, prefixEach || i === 0)) ids.push(id)
    })
    return addSpecialTokens ? [...before, ...ids, ...after] : ids
  }

  decode (ids: readonly number[], skipSpecialTokens: boolean): string {
    const { special, shown } = this.#options
    let text = ''
    let run: number[] = []
    const endRun = (): void => {
      text += this.#model.decode(run, text === '')
      run = []
    }
    for (const id of ids) {
      const token = special.get(id)
      if (token !== undefined && skipSpecialTokens) continue
      const literal = token ?? shown?.get(id)
      if (literal === undefined) run.push(id)
      else {
        endRun()
        text += literal
      }
    }
    endRun()
    return text
  }

  idOf (token: string): number | undefined {
    return this.#ids.get(token) ?? this.#model.idOf(token)
  }

  nameOf (id: number): string | undefined {
    return this.#options.special.get(id) ?? this.#model.pieces[id]?.text
  }
}

/** Returns the control pieces of a model, by their ids. */
export function controlPieces (model: SentencePieceModel): Map<number, string> {
  return new Map(model.pieces.flatMap(({ text, kind }, id) => kind === 'control' ? [[id, text] as const] : []))
}

function escapePattern (text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
}
