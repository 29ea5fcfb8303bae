import type { AuditAttack } from '../../../api/audit.ts'
import type { ProgressOf } from '../../../api/operations.ts'
import { UsageError } from '../../../errors.ts'
import { ModelWeights } from '../../../model/layers/weights.ts'
import { CandidateStates } from '../../../model/privacy/audit/candidate-states.ts'
import { attackFigures, priorFigures, type AttackFigures, type PriorFigures } from '../../../model/privacy/audit/figures.ts'
import { attackGradients, type LabelledSequence } from '../../../model/privacy/audit/gradient-oracle.ts'
import { levelsFor, type Levels } from '../../../model/privacy/audit/levels.ts'
import { attackAsOracle, type AttackedSequence, type OracleOptions, type OracleOutcomes } from '../../../model/privacy/audit/oracle.ts'
import type { TokenOutcome } from '../../../model/privacy/audit/posterior.ts'
import type { Prior } from '../../../model/privacy/audit/prior.ts'
import { longestRow } from '../../../model/privacy/audit/row-norms.ts'
import { requirePassed, selfChecks, type SelfCheck } from '../../../model/privacy/audit/self-checks.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import type { Charter, Partition } from '../../../protocols/charter/schema.ts'
import type { ClientProtection } from '../../charter-settings.ts'
import type { ClientRuntime } from '../runtime.ts'
import { countOf } from './attacked-text.ts'
import { openTop, type GradientAttack } from './gradient-attack.ts'

export type AuditProgress = Extract<ProgressOf<'audit'>, { readonly type: 'progress' }>

/** A prior that foretells this share of a text has read it: then nothing is left that could leak. */
const BY_HEART = 0.95

/** Multiplications that an attack on hidden states may take: a few minutes on two cores. */
const MOST_WORK = 4e12

/** Candidates of each token, at least: among fewer, hardly anything else would be like the token. */
const FEWEST_CANDIDATES = 256

/** What the attacks of an audit share. */
export interface AttackContext {
  readonly charter: Charter
  readonly partition: Partition
  readonly runtime: ClientRuntime
  readonly protection: ClientProtection
  readonly prior: Prior
  /** The directory of the whole model, where there is one here. */
  readonly wholeModel: string | undefined
  /** Noises that are attacked in place of those of a curve. */
  readonly noises?: { readonly hidden: readonly number[], readonly gradient: readonly number[] } | undefined
}

export interface AttackedText {
  readonly sequences: readonly AttackedSequence[]
  /** The labels to attack by gradients; undefined where they are not attacked. */
  readonly labels: GradientAttack | undefined
}

export interface AttackResult {
  readonly name: AuditAttack['name']
  readonly levels: Levels
  /** Tokens, or labels, that were attacked. */
  readonly tokens: number
  readonly candidates: number
  readonly prior: PriorFigures
  /** By release. */
  readonly released: readonly AttackFigures[]
  /** By release, token by token. */
  readonly outcomes: ReadonlyArray<readonly TokenOutcome[]>
  readonly checks: readonly SelfCheck[]
}

/** The bottom that an attacker computes candidates with. */
interface KnownBottom {
  readonly name: AuditAttack['name']
  readonly weights: ModelWeights
  /** Whether it is the one that computed what was released. */
  readonly isOwn: boolean
}

const WORKS: Readonly<Record<AuditAttack['name'], string>> = {
  oracle: 'attacking hidden states',
  'base-oracle': 'attacking hidden states with the base model',
  gradients: 'attacking gradients'
}

/**
 * Makes the attacks of an audit, one after another, and yields how far they are. The first is the oracle's. Throws AuditCheckError where
 * what an attack found cannot be, and UsageError for a prior that knows the text by heart.
 */
export async function * makeAttacks (
  context: AttackContext,
  { sequences, labels }: AttackedText,
  signal: AbortSignal
): AsyncGenerator<AuditProgress, [AttackResult, ...AttackResult[]]> {
  const { charter, runtime: { clientModel: { weights } } } = context
  const results: [AttackResult, ...AttackResult[]] = [yield * attackHidden(context, { name: 'oracle', weights, isOwn: true }, sequences, signal)]
  // Ends that are personal are known to nobody else: what an attacker has in their place is the model that all began with.
  if (charter.ends.mode === 'personal') {
    const base = await baseBottom(context)
    try {
      results.push(yield * attackHidden(context, { name: 'base-oracle', weights: base, isOwn: false }, sequences, signal))
    } finally {
      base.free()
    }
  }
  if (labels !== undefined) results.push(yield * attackLabels(context, labels, signal))
  return results
}

async function * attackHidden (
  { charter: { wire: rounding }, partition: { inputBlocks }, runtime, protection: { hidden: protection }, prior, noises }: AttackContext,
  { name, weights, isOwn }: KnownBottom,
  sequences: readonly AttackedSequence[],
  signal: AbortSignal
): AsyncGenerator<AuditProgress, AttackResult> {
  const { device, boundary, model: { hiddenSize: hidden, vocabularySize }, clientModel: { bottom } } = runtime
  const compute: OracleOptions['compute'] = async (ids) => (await bottom.forward([[...ids]], { keepResiduals: false })).hidden
  const { clip } = protection
  const longest = clip ?? await longestRow(device, compute, sequences.map(({ ids }) => ids))
  const levels = levelsFor(protection, { hidden, rounding, longest, noises: noises?.hidden })
  const { protections } = levels
  const states = await CandidateStates.open(weights, inputBlocks)
  const total = countOf(sequences)
  const candidates = candidatesFor(states, total)
  const shortlist = candidates < vocabularySize ? { count: candidates, release: levels.deployed } : undefined
  const options = { device, boundary, rounding, states, isOwnBottom: isOwn, compute, prior, clip, protections, shortlist }
  const outcomes = yield * counted(attackAsOracle(options, sequences, signal), WORKS[name], total)
  return summedUp(outcomes, { name, levels, candidates, about: prior.about, knowsWeights: isOwn })
}

/** Attacks labels by the gradients that leave in training. */
async function * attackLabels (
  { charter, partition, runtime, protection: { gradient: protection }, prior, wholeModel, noises }: AttackContext,
  { sequences, candidates }: GradientAttack,
  signal: AbortSignal
): AsyncGenerator<AuditProgress, AttackResult> {
  const { device, boundary, model: { hiddenSize: hidden } } = runtime
  const { wire: rounding } = charter
  const { free, ...top } = await openTop(runtime, { charter, partition, wholeModel })
  try {
    const { clip } = protection
    const longest = clip ?? await longestRow(device, async ({ ids, targets }: LabelledSequence) => {
      using scope = new Scope(device)
      return await top.gradient(scope.own(await top.enter(ids)), [ids], [[...targets]])
    }, sequences)
    const levels = levelsFor(protection, { hidden, rounding, longest, noises: noises?.gradient })
    const options = { device, boundary, rounding, hidden, prior, clip, protections: levels.protections, candidates, ...top }
    const total = countOf(sequences)
    const outcomes = yield * counted(attackGradients(options, sequences, signal), WORKS.gradients, total)
    return summedUp(outcomes, { name: 'gradients', levels, candidates, about: prior.about, knowsWeights: true })
  } finally {
    free()
  }
}

/** Yields how far an attack is, and returns what it found. */
async function * counted (
  attacking: AsyncGenerator<number, OracleOutcomes>,
  work: string,
  total: number
): AsyncGenerator<AuditProgress, OracleOutcomes> {
  for (;;) {
    const next = await attacking.next()
    if (next.done === true) return next.value
    yield { type: 'progress', work, done: next.value, total }
  }
}

/** Sums up what an attack found, and checks it. */
function summedUp (
  { priors, released: outcomes, noise }: OracleOutcomes,
  { name, levels, candidates, about, knowsWeights }: Pick<AttackResult, 'name' | 'levels' | 'candidates'> & {
    readonly about: string
    readonly knowsWeights: boolean
  }
): AttackResult {
  const prior = priorFigures(priors)
  if (prior.recovered.value > BY_HEART)
    throw new UsageError(
      `the prior (${about}) foretells ${(100 * prior.recovered.value).toFixed(1)} % of this text: it has read it, and nothing is left to leak`,
      'give --prior what has not read the text'
    )
  const released = outcomes.map((each) => attackFigures(priors, each))
  const isNoised = knowsWeights && levels.protections[levels.deployed]!.noise > 0
  const checks = selfChecks({ prior, released, noise, ...levels, knowsWeights, isNoised })
  requirePassed(checks)
  return { name, levels, tokens: priors.length, candidates, prior, released, outcomes, checks }
}

/** Chooses how many candidates of each token are tried: all, or as many as can be computed in minutes. */
function candidatesFor ({ weights: { model: { vocabularySize } }, workPerCandidate }: CandidateStates, tokens: number): number {
  const affordable = Math.floor(MOST_WORK / (tokens * workPerCandidate))
  return Math.min(vocabularySize, Math.max(FEWEST_CANDIDATES, affordable))
}

/** Loads the first blocks as they are without adapters. The caller frees them. */
async function baseBottom (
  { partition: { inputBlocks }, runtime: { device, model, directory } }: Pick<AttackContext, 'partition' | 'runtime'>
): Promise<ModelWeights> {
  const weights = new ModelWeights(device, model, 'weights')
  return await weights.orFreed(async () => {
    await weights.loadEmbedding(directory)
    await weights.loadBlocks(directory, { first: 0, end: inputBlocks })
    return weights
  })
}
