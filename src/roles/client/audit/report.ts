import { FEW_AUDIT_TOKENS, type AuditAttack, type AuditPoint } from '../../../api/audit.ts'
import type { ResultOf } from '../../../api/operations.ts'
import { meaningOf, type Attacked } from '../../../model/privacy/audit/meaning.ts'
import type { SelfCheck } from '../../../model/privacy/audit/self-checks.ts'
import { finite } from '../operations/finite.ts'
import type { AttackContext, AttackResult } from './attacks.ts'
import type { TextFindings } from './prepared-text.ts'
import type { TrialLosses } from './trials.ts'

type Report = ResultOf<'audit'>

/** Below so many tokens that nobody would guess, what is recovered of them says little. */
const FEW_HARD_TOKENS = 50

const ABOUT: Readonly<Record<AuditAttack['name'], string>> = {
  oracle: "knows the words before each token and this client's blocks; decides for the likeliest candidate by the hidden state of the token",
  'base-oracle': "knows the words before each token, and in place of this client's blocks those of the base model",
  gradients: "knows this client's blocks, what enters the last of them, and all labels but one; decides for the likeliest by all gradients"
}

/** What an audit tried. */
export interface Tried {
  /** Tokens whose hidden states are attacked. */
  readonly tokens: number
  /** Tokens among them that are withheld; undefined where no words are. */
  readonly withheld: number | undefined
  /** Why gradients are not attacked, where they are not. */
  readonly withoutGradients: string | undefined
  /** Whether losses were asked for, and there is data to measure them on. */
  readonly losses: { readonly wanted: boolean, readonly possible: boolean }
  readonly wholeModel: string | undefined
}

/** Says what limits the figures, as far as that is known before the attacks. */
export function noticesBefore ({ tokens, withheld, withoutGradients, losses, wholeModel }: Tried): string[] {
  return [
    ...tokens < FEW_AUDIT_TOKENS
      ? [`only ${tokens} tokens are attacked, fewer than ${FEW_AUDIT_TOKENS}: the errors are large; give more text, or more with --tokens`]
      : [],
    ...withheld !== undefined && withheld < FEW_AUDIT_TOKENS
      ? [`only ${withheld} of the attacked tokens are withheld, fewer than ${FEW_AUDIT_TOKENS}: the errors of what is guessed of them are large`]
      : [],
    ...losses.wanted && !losses.possible ? ['too few records to hold any out: no loss is measured; give --eval-data'] : [],
    ...withoutGradients !== undefined ? [`gradients leave in training as well, and are not attacked here: ${withoutGradients}`] : [],
    ...withoutGradients === undefined && wholeModel === undefined
      ? ['gradients are attacked as they are with the middle skipped: give --model for those of training']
      : []
  ]
}

/** What an audit found. */
export interface Findings extends TextFindings {
  readonly losses: TrialLosses | undefined
  readonly notices: readonly string[]
  readonly seconds: number
}

/** Makes the report of what the attacks and the trainings came to. */
export function reportOf (
  { partition, runtime: { model }, charter: { wire }, protection, prior }: AttackContext,
  { attacks, withheld, losses, notices, seconds }: Findings
): Report {
  const [oracle] = attacks
  const { recovered, hard, hardTokens, crossEntropy } = oracle.prior
  const gradients = attacks.find(({ name }) => name === 'gradients')
  const { verdict, text } = meaningOf({
    hidden: asDeployed(oracle), gradient: gradients === undefined ? undefined : asDeployed(gradients), withheld
  }, losses, protection.hidden)
  return {
    type: 'result',
    settings: {
      ...partition,
      hiddenSize: model.hiddenSize,
      hidden: protection.hidden,
      gradient: protection.gradient,
      keepsStream: protection.keepsStream,
      wire
    },
    tokens: oracle.tokens,
    hardTokens,
    prior: { kind: prior.kind, about: prior.about, recovered, hard, crossEntropy: finite(crossEntropy) },
    attacks: attacks.map(shownAttack),
    ...withheld === undefined ? {} : { withheld: shownWithheld(withheld, prior.about, oracle.levels.deployed) },
    ...losses === undefined ? {} : { losses: shownLosses(losses) },
    checks: [
      ...attacks.flatMap(({ name: attack, checks }) => checks.map((check) => ({ attack, ...shownCheck(check) }))),
      ...withheld === undefined ? [] : [{ attack: 'infill', ...shownCheck(withheld.check) }]
    ],
    verdict,
    meaning: text,
    notices: [...notices, ...noticesAfter(oracle, model.vocabularySize)],
    seconds
  }
}

function noticesAfter ({ prior: { hardTokens }, candidates }: AttackResult, vocabularySize: number): string[] {
  return [
    ...hardTokens < FEW_HARD_TOKENS ? [`only ${hardTokens} of the tokens are hard to guess: what is recovered of them says little`] : [],
    ...candidates < vocabularySize
      ? [`${candidates} of ${vocabularySize} tokens are candidates each time, the right one always among them: figures are rather too high than too low`]
      : []
  ]
}

function shownAttack ({ name, levels, tokens, candidates, prior, released }: AttackResult): AuditAttack {
  const { protections, deployed, drowned } = levels
  const points = protections.map(({ noise }, i): AuditPoint => {
    const { crossEntropy, ...figures } = released[i]!
    return { noise, ...figures, crossEntropy: finite(crossEntropy) }
  })
  return {
    name,
    about: ABOUT[name],
    of: name === 'gradients' ? 'gradient' : 'hidden',
    tokens,
    candidates,
    guessed: prior.recovered,
    deployed: points[deployed]!,
    curve: points.slice(0, drowned)
  }
}

function shownCheck ({ name, expected, found }: SelfCheck): Omit<Report['checks'][number], 'attack'> {
  return { name, expected, found }
}

function shownWithheld (
  { rules, tokens, share, prior, figures: { alone, withPrior, hard, leak, crossEntropy }, whole }: NonNullable<Findings['withheld']>,
  about: string,
  deployed: number
): NonNullable<Report['withheld']> {
  return {
    rules,
    about: `knows the sent words and where others are withheld, and guesses these by ${about}`,
    tokens,
    share,
    guessed: prior.recovered,
    guessedCrossEntropy: finite(prior.crossEntropy),
    before: alone,
    recovered: withPrior,
    hardTokens: prior.hardTokens,
    hard,
    leak,
    crossEntropy: finite(crossEntropy),
    whole: { recovered: whole[deployed]!.withPrior, leak: whole[deployed]!.leak }
  }
}

function asDeployed ({ levels: { deployed }, prior, released }: AttackResult): Attacked {
  return { figures: released[deployed]!, prior }
}

function shownLosses ({ rounds, tokens, before, unprotected, deployed, alone }: TrialLosses): NonNullable<Report['losses']> {
  return {
    rounds,
    tokens,
    ...before === undefined ? {} : { before: finite(before) },
    ...unprotected === undefined ? {} : { unprotected: finite(unprotected) },
    ...deployed === undefined ? {} : { deployed: finite(deployed) },
    alone: finite(alone)
  }
}
