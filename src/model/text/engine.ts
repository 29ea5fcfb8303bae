/** What turns text into token ids and back; `Tokenizer` gives it a model's special tokens and chat template. */
export interface TokenEngine {
  /** Token ids; with those that the model puts around a text (such as BOS) if `addSpecialTokens`. */
  encode: (text: string, addSpecialTokens: boolean) => number[]
  decode: (ids: readonly number[], skipSpecialTokens: boolean) => string
  idOf: (token: string) => number | undefined
  /** How the vocabulary writes a token, such as `Ġthe`, `▁the` or `<0x0A>`. */
  nameOf: (id: number) => string | undefined
  /** The tokens that begin and end a sequence, where the vocabulary itself says so. */
  readonly bosToken?: string
  readonly eosToken?: string
  /** Tokens at which generation stops besides those that the configuration names. */
  readonly stopTokens?: readonly string[]
  /** False where a further token may change the text of those before it, so that a text is certain only at its end. */
  readonly appendsText?: boolean
  /**
   * True for a prefix language model: it reads a whole context, closed by special tokens, before it writes. Then a sequence is an encoded
   * context followed by one answer, and the two are encoded apart.
   */
  readonly answersContexts?: boolean
}
