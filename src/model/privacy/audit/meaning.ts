import type { AttackFigures, Figure, PriorFigures } from './figures.ts'

/** Losses in nats a held-out token; undefined where they were not measured. */
export interface AuditLosses {
  readonly rounds: number
  readonly unprotected?: number | undefined
  readonly deployed?: number | undefined
  readonly alone: number
}

export type Verdict = 'little' | 'withholds' | 'leaks' | 'useless' | 'unknown'

export interface Meaning {
  readonly verdict: Verdict
  readonly text: string
}

/** The share of the text's information that may leak, with two standard errors, where little is said to leak. */
const LITTLE_LEAK = 0.05

/** By how much more may be recovered of the hard tokens than the prior does, with two standard errors, where little is said to leak. */
const LITTLE_RECOVERED = 0.05

const ERRORS = 2

/** What an attack came to under the settings as they are, beside the prior alone on the same tokens. */
export interface Attacked {
  readonly figures: AttackFigures
  readonly prior: PriorFigures
}

/**
 * Says in words what an audit found: of hidden states, and of gradients where these were attacked. Nothing is said to leak little whose
 * loss is not below that of the client alone, or was not measured.
 */
export function meaningOf (
  { hidden, gradient, withheld }: {
    readonly hidden: Attacked
    readonly gradient?: Attacked | undefined
    readonly withheld?: AttackedWithheld | undefined
  },
  losses: AuditLosses | undefined,
  { noise, clip }: { readonly noise: number, readonly clip: number | null }
): Meaning {
  const { figures: attacked, prior } = hidden
  const leaksLittle = isLittle(hidden) && (gradient === undefined || isLittle(gradient))
  const worth = losses?.deployed === undefined ? undefined : losses.deployed < losses.alone
  const withholds = worth === true && withheld !== undefined && isLittle(withheld)
  const verdict = worth === false ? 'useless' : !leaksLittle ? withholds ? 'withholds' : 'leaks' : worth === true ? 'little' : 'unknown'
  const what = withheld === undefined ? 'tokens' : 'sent tokens'
  return {
    verdict,
    text: [
      `Whoever receives the hidden states under these settings (${
        noise > 0 ? `noise ${noise}` : clip === null ? 'without noise and clip' : 'clipped, without noise'
      }), and knows the client's blocks and the words before each token, recovers ${percent(attacked.withPrior)} of the ${what}; who only knows such text guesses ${
        percent(prior.recovered)
      }.`,
      ...attacked.hard === null ? [] : [`Of the ${prior.hardTokens} ${what} that nobody would guess, ${percent(attacked.hard)} are recovered.`],
      `${percent(attacked.leak)} of what ${withheld === undefined ? 'the text tells' : 'they tell'} beyond that knowledge leaks.`,
      ...gradient === undefined
        ? []
        : [`Of the labels in training, ${percent(gradient.figures.withPrior)} are recovered by their gradients, and ${percent(gradient.figures.leak)} of what they tell leaks.`],
      withheldText(withheld),
      lossText(losses),
      CONCLUSIONS[verdict]
    ].filter((sentence) => sentence !== '').join(' ')
  }
}

/** What an attack on withheld words came to, beside the prior with all words before each. */
export interface AttackedWithheld extends Attacked {
  readonly tokens: number
  /** The share of the attacked tokens. */
  readonly share: number
}

function withheldText (withheld: AttackedWithheld | undefined): string {
  if (withheld === undefined) return ''
  const { tokens, share, figures: { withPrior }, prior: { recovered } } = withheld
  return `The ${tokens} withheld tokens (${(100 * share).toFixed(1)} % of all) do not leave; by the words around them ${
    percent(withPrior)
  } are guessed, where ${percent(recovered)} are by all words before them, the withheld ones known.`
}

const CONCLUSIONS: Readonly<Record<Verdict, string>> = {
  little: 'Little more leaks to these attacks than could be guessed, and the servers are worth having.',
  withholds: 'The words that are sent do not stay from the servers; those withheld are guessed hardly better than by anybody who knows the text before them, and the servers are worth having.',
  leaks: 'These settings do not keep the text from the servers: what protects it is what is not sent, and whom the servers belong to.',
  useless: 'The servers are not worth having with these settings: this client does as well without them, and then nothing is sent at all.',
  unknown: 'Little more leaks than could be guessed; whether the servers are worth having with so much noise was not measured.'
}

function lossText (losses: AuditLosses | undefined): string {
  if (losses === undefined) return ''
  const { rounds, unprotected, deployed, alone } = losses
  if (deployed === undefined || unprotected === undefined)
    return `This client alone comes to a loss of ${alone.toFixed(3)} after ${rounds} rounds; what it comes to with the servers takes the whole model (--model) to measure.`
  return `After ${rounds} rounds the loss is ${deployed.toFixed(3)} with these settings, ${unprotected.toFixed(3)} without protection, and ${
    alone.toFixed(3)
  } where this client works alone.`
}

function isLittle ({ figures: { leak, hard }, prior }: Attacked): boolean {
  const [more, error] = hard === null || prior.hard === null
    ? [0, 0]
    : [hard.value - prior.hard.value, Math.max(hard.error, prior.hard.error)]
  return leak.value + ERRORS * leak.error <= LITTLE_LEAK && more + ERRORS * error <= LITTLE_RECOVERED
}

function percent ({ value, error }: Figure): string {
  return `${(100 * value).toFixed(1)} % (± ${(100 * error).toFixed(1)})`
}
