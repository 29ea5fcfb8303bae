import { judgeTokens, rulesWithoutData, type TokenFate, type WithholdRule } from '../../../model/privacy/withholding.ts'
import type { TokenizerThread } from '../../../model/text/threads/tokenizer-thread.ts'

/** The tokens of a text that grows, and what becomes of each. A token that was sent stays sent. */
export class WithheldText {
  readonly #tokenizer: Pick<TokenizerThread, 'wordTexts'>
  readonly #rules: readonly WithholdRule[]
  readonly #ids: number[] = []
  readonly #fates: TokenFate[] = []
  /** The first token that has to be judged again: that of a word that may go on. */
  #openFrom = 0

  /** Throws UsageError for rules that need a data set. */
  constructor (tokenizer: Pick<TokenizerThread, 'wordTexts'>, rules: readonly WithholdRule[]) {
    this.#tokenizer = tokenizer
    this.#rules = rulesWithoutData(rules)
  }

  get ids (): readonly number[] { return this.#ids }

  get fates (): readonly TokenFate[] { return this.#fates }

  /** Tokens whose fate is known: all before the first one that waits. */
  get decided (): number {
    const waiting = this.#fates.indexOf('waits')
    return waiting < 0 ? this.#fates.length : waiting
  }

  /** The tokens that are sent, in order. */
  get sentIds (): number[] {
    return this.#ids.filter((_, i) => this.#fates[i] === 'sent')
  }

  /** Adds tokens, and judges them and those that waited. */
  async push (ids: readonly number[]): Promise<void> {
    const decided = this.decided
    const tail = [...this.#ids.slice(this.#openFrom), ...ids]
    const { fates, openFrom } = judgeTokens(await this.#tokenizer.wordTexts(tail), this.#rules)
    this.#ids.push(...ids)
    for (const [i, fate] of fates.entries()) if (this.#openFrom + i >= decided) this.#fates[this.#openFrom + i] = fate
    this.#openFrom += openFrom
  }
}
