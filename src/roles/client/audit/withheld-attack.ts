import { attackFigures, priorFigures, type AttackFigures, type PriorFigures } from '../../../model/privacy/audit/figures.ts'
import { attackGaps, gapsIn } from '../../../model/privacy/audit/infill.ts'
import { requirePassed, sentTokensCheck, type SelfCheck } from '../../../model/privacy/audit/self-checks.ts'
import type { AttackedPiece } from './attacked-text.ts'
import type { AttackContext, AttackResult, AuditProgress } from './attacks.ts'

/** What can be guessed of withheld tokens, and what the whole text tells, its sent tokens included. */
export interface WithheldResult {
  /** Withheld tokens that were attacked. */
  readonly tokens: number
  /** The share of withheld tokens among all that were attacked. */
  readonly share: number
  /** What the prior foretells of them with all words before known. */
  readonly prior: PriorFigures
  /** `alone` is by the sent words before each, `withPrior` by those behind as well. */
  readonly figures: AttackFigures
  /** All attacked tokens, sent or withheld, by release of the hidden states. */
  readonly whole: readonly AttackFigures[]
  /** What the prior foretells of all attacked tokens with all words before known. */
  readonly wholePrior: PriorFigures
  /** All attacked tokens, sent or withheld. */
  readonly wholeTokens: number
  readonly check: SelfCheck
}

/** Attacks what is withheld by what is sent, which `oracle` attacked, and yields how far it is. */
export async function * attackWithheld (
  { prior }: Pick<AttackContext, 'prior'>,
  pieces: readonly AttackedPiece[],
  oracle: Pick<AttackResult, 'outcomes'>,
  signal: AbortSignal
): AsyncGenerator<AuditProgress, WithheldResult> {
  const check = sentTokensCheck(pieces)
  requirePassed([check])
  const sequences = pieces.map(({ whole }) => whole)
  const total = gapsIn(sequences)
  const attacking = attackGaps(prior, sequences, signal)
  let next = await attacking.next()
  while (next.done !== true) {
    yield { type: 'progress', work: 'guessing withheld words', done: next.value, total }
    next = await attacking.next()
  }
  const { priors, sentPriors, outcomes } = next.value
  const all = [...sentPriors, ...priors]
  return {
    tokens: priors.length,
    share: priors.length / all.length,
    prior: priorFigures(priors),
    figures: attackFigures(priors, outcomes),
    whole: oracle.outcomes.map((sent) => attackFigures(all, [...sent, ...outcomes])),
    wholePrior: priorFigures(all),
    wholeTokens: all.length,
    check
  }
}
