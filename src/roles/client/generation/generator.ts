import { logProbabilities, type LogProbabilities } from '../../../model/generation/log-probabilities.ts'
import { createSampler, type SamplingOptions } from '../../../model/generation/sampling.ts'
import type { Predict, TextSpeculation } from '../../../model/generation/speculation/speculation.ts'
import { onlyAllowed, type TokenConstraint } from '../../../model/generation/token-constraint.ts'
import type { GrowingText } from './sequence.ts'

/** What a generation goes on until. */
export interface Limits {
  readonly maxTokens: number
  readonly stopIds: readonly number[]
  /** How many of the likeliest tokens are told with each token; unless given, no probabilities are told. */
  readonly logProbabilities?: number | undefined
  /** Which tokens may come, where the text has to keep to a form. It stays the caller's. */
  readonly constraint?: TokenConstraint | undefined
}

export interface GeneratedToken {
  readonly id: number
  /** Whether it is one that ends the text. */
  readonly stop: boolean
  /** Where they were asked for. */
  readonly logProbabilities?: LogProbabilities
}

/** What drafts the tokens of a text, and hears which came. */
export interface Drafting extends Pick<TextSpeculation, 'committed'> {
  /** Returns tokens to send before they are known to be next, `room` of them at most. `predict` drafts with the map of the middle. */
  draft (room: number, predict: Predict): readonly number[] | Promise<readonly number[]>
}

/** What a round trip gave. */
interface Answer {
  /** The tokens that were sent after the last one before they were known to be next. */
  readonly drafted: readonly number[]
  /** [vocabulary] each: after the last token, and after each drafted one. */
  readonly logits: readonly Float32Array[]
  readonly ms: number
}

/**
 * Prefills the prompt, then yields one token after another until one stops the text or there are as many as wanted. `drafting` names
 * tokens that are sent along with the one before; the text is the one that it would be without.
 */
export async function* generateTokens (
  sequence: GrowingText,
  prompt: readonly number[],
  sampling: SamplingOptions,
  { maxTokens, stopIds, logProbabilities: told, constraint }: Limits,
  drafting: Drafting,
  signal: AbortSignal
): AsyncGenerator<GeneratedToken> {
  const sample = createSampler(sampling)
  const left = new AbortController()
  const until = AbortSignal.any([signal, left.signal])
  /** Sends the token before that of this step, with drafted ones after it. */
  const goOn = async (id: number, step: number): Promise<Answer> => {
    const drafted = await drafting.draft(maxTokens - step - 1, async (count) =>
      await sequence.draft(id, count, (logits, drafted) => sample(logits, step + drafted)))
    until.throwIfAborted()
    return await timed(drafted, async () => drafted.length > 0
      ? await sequence.verify(id, drafted, until)
      : [await sequence.next([id], { guess: guesses(step) }, until)])
  }
  /** The last token is followed by nothing. */
  const guesses = (step: number): boolean => sampling.temperature === 0 && step < maxTokens - 1
  let round = timed([], async () => [await sequence.next(prompt, { guess: guesses(0) }, until)])
  try {
    for (let step = 0; step < maxTokens;) {
      const { drafted, logits, ms } = await round
      const tokens: GeneratedToken[] = []
      let accepted = 0
      for (const next of logits) {
        const id = sample(constraint === undefined ? next : onlyAllowed(next, await constraint.allowed()), step + tokens.length)
        constraint?.accept(id)
        const isDrafted = id === drafted[tokens.length]
        tokens.push({
          id,
          stop: stopIds.includes(id),
          ...(told === undefined ? {} : { logProbabilities: logProbabilities(next, id, told) })
        })
        if (isDrafted) accepted++
        if (!isDrafted || tokens.at(-1)!.stop) break
      }
      const ids = tokens.map(({ id }) => id)
      if (drafted.length > 0) sequence.rewind(sequence.length - 1 - drafted.length + tokens.length)
      drafting.committed(ids, { sent: drafted.length, accepted, ms: step === 0 ? undefined : ms })
      step += tokens.length
      const goesOn = !tokens.at(-1)!.stop && step < maxTokens
      // The next token is on its way while the caller does something with these.
      if (goesOn) (round = goOn(ids.at(-1)!, step)).catch(() => {})
      yield * tokens
      if (!goesOn) return
    }
  } finally {
    left.abort()
    await round.catch(() => {})
  }
}

async function timed (drafted: readonly number[], work: () => Promise<readonly Float32Array[]>): Promise<Answer> {
  const startedAtMs = performance.now()
  const logits = await work()
  return { drafted, logits, ms: performance.now() - startedAtMs }
}
