import type { Usage } from '../../api/openai/fields.ts'
import type { ResultOf } from '../../api/operations.ts'

type Done = ResultOf<'generate'>

/** Counts the tokens of a request. A prompt counts once, however many choices it has. */
export class UsageCount {
  readonly #choices: number
  #prompt = 0
  #completion = 0

  /** Takes the number of choices for each prompt. */
  constructor (choices: number) {
    this.#choices = choices
  }

  /** Adds the choice with this index among those of the request. */
  add (index: number, { promptTokens, tokens }: Done): void {
    if (index % this.#choices === 0) this.#prompt += promptTokens
    this.#completion += tokens
  }

  get usage (): Usage {
    return { prompt_tokens: this.#prompt, completion_tokens: this.#completion, total_tokens: this.#prompt + this.#completion }
  }
}

/** Returns why a text ended, in OpenAI's words. */
export function finishReasonOf ({ reason }: Done): 'stop' | 'length' {
  return reason === 'stop' ? 'stop' : 'length'
}
