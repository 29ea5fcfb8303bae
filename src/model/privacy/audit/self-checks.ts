import { MidspanError } from '../../../errors.ts'
import type { AttackFigures, PriorFigures } from './figures.ts'
import type { GappedSequence } from './infill.ts'
import type { NoiseSum } from './likelihood.ts'

/** One thing that must hold for the figures of an audit to be believed. */
export interface SelfCheck {
  readonly name: string
  readonly expected: string
  readonly found: string
  readonly passed: boolean
}

/** Thrown where a check of the audit itself fails: its figures would be wrong, and there is no report. */
export class AuditCheckError extends MidspanError {
  constructor (failed: SelfCheck) {
    super('E_AUDIT', `the audit does not hold: ${failed.name}: expected ${failed.expected}, found ${failed.found}; there is no report`, {
      next: failed.name === WITH_PRIOR
        ? 'give a prior that knows such text with --prior: a model of the same tokenizer, or public text'
        : 'attack more tokens with --tokens; where it fails again, report it'
    })
  }
}

/** The share of tokens that the oracle finds without noise, at least. */
const BARE_SHARE = 0.99

/** Standard errors by which figures of the same kind may differ. */
const ERRORS = 2

/** Standard errors by which the sum of all squares of the noise may differ from what is expected: once in 16,000 audits more. */
const NOISE_ERRORS = 4

/** What noise that drowns everything may let through of the text's information, at most. */
const DROWNED_LEAK = 0.01

const WITH_PRIOR = 'with the prior no less is recovered than without'

export interface CheckedFigures {
  readonly prior: PriorFigures
  /** By release. */
  readonly released: readonly AttackFigures[]
  readonly noise: readonly NoiseSum[]
  readonly bare: number
  readonly deployed: number
  readonly drowned: number
  /** Whether the attack knows the client's own weights: otherwise it need not find everything without noise. */
  readonly knowsWeights: boolean
  /** Whether rows leave with noise. */
  readonly isNoised: boolean
}

/** Checks an audit by what it must find. */
export function selfChecks (figures: CheckedFigures): SelfCheck[] {
  const { prior, released, bare, drowned, knowsWeights } = figures
  const [first, last] = [released[bare]!, released[drowned]!]
  const distance = Math.abs(last.withPrior.value - prior.recovered.value)
  const worst = released.map(({ alone, withPrior }) => (alone.value - withPrior.value) / Math.max(alone.error, withPrior.error))
  return [
    ...knowsWeights
      ? [{
        name: 'without noise the oracle recovers everything',
        expected: `at least ${percent(BARE_SHARE)}`,
        found: percent(first.alone.value),
        passed: first.alone.value >= BARE_SHARE
      }]
      : [],
    {
      name: 'under noise that drowns everything the oracle equals the prior',
      expected: `${percent(prior.recovered.value)} within ${percent(ERRORS * prior.recovered.error)}, and a leak below ${percent(DROWNED_LEAK)}`,
      found: `${percent(last.withPrior.value)}, and a leak of ${percent(last.leak.value)}`,
      passed: distance <= ERRORS * prior.recovered.error && Math.abs(last.leak.value) < DROWNED_LEAK + ERRORS * last.leak.error
    },
    {
      name: WITH_PRIOR,
      expected: `within ${ERRORS} standard errors`,
      found: `${Math.max(0, ...worst).toFixed(1)} standard errors less`,
      passed: Math.max(...worst) <= ERRORS
    },
    ...figures.isNoised ? [noiseCheck(figures)] : []
  ]
}

/** Checks that what is sent of pieces of a text is their tokens less those that are withheld. */
export function sentTokensCheck (
  pieces: ReadonlyArray<{ readonly whole: Pick<GappedSequence, 'ids' | 'isSent'>, readonly sent: { readonly ids: readonly number[] } }>
): SelfCheck {
  const wrong = pieces.filter(({ whole: { ids, isSent }, sent }) => String(sent.ids) !== String(ids.filter((_, i) => isSent[i] === 1)))
  return {
    name: 'what is sent is the text without the withheld words',
    expected: `in all ${pieces.length} sequences`,
    found: `in ${pieces.length - wrong.length}`,
    passed: wrong.length === 0
  }
}

/** Throws AuditCheckError for the first check that failed. */
export function requirePassed (checks: readonly SelfCheck[]): void {
  const failed = checks.find(({ passed }) => !passed)
  if (failed !== undefined) throw new AuditCheckError(failed)
}

/** The sum of n squares of standard normal values has the mean n and the variance 2 n. */
function noiseCheck ({ noise, deployed }: CheckedFigures): SelfCheck {
  const { sum, count } = noise[deployed]!
  const error = Math.sqrt(2 / Math.max(1, count))
  return {
    name: 'the variance of the noise that was released is that of the settings',
    expected: `1 within ${(NOISE_ERRORS * error).toFixed(4)} of it`,
    found: (sum / Math.max(1, count)).toFixed(4),
    passed: count > 0 && Math.abs(sum / count - 1) <= NOISE_ERRORS * error
  }
}

function percent (share: number): string {
  return `${(100 * share).toFixed(1)} %`
}
