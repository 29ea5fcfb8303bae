import type { EventOf } from '../../../api/operations.ts'
import type { LogProbabilities } from '../../../model/generation/log-probabilities.ts'
import type { ClientRuntime } from '../runtime.ts'

/** What OpenAI's API tells in place of the logarithm of a probability that is too small to tell. */
const LOWEST_LOGPROB = -9999

/** Returns what is told of a token that comes after the token `before`. */
export async function tokenEvent (
  tokenizer: ClientRuntime['tokenizer'],
  before: number,
  id: number,
  { chosen, top }: LogProbabilities
): Promise<EventOf<'generate'>> {
  const [text = '', ...texts] = await tokenizer.tokenTexts([id, ...top.map((other) => other.id)], before)
  return {
    type: 'token',
    id,
    text,
    logprob: finite(chosen),
    top: top.map((other, i) => ({ id: other.id, text: texts[i] ?? '', logprob: finite(other.logProbability) }))
  }
}

/** JSON has no infinity: the logarithm of a probability of 0 is told as the lowest number, as OpenAI's API tells it. */
function finite (logProbability: number): number {
  return Math.max(logProbability, LOWEST_LOGPROB)
}
