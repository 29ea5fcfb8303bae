import type { DataOptions } from '../../../api/data.ts'
import { UsageError } from '../../../errors.ts'
import type { Model } from '../../../model/families/index.ts'
import type { Dataset } from '../../../model/text/dataset.ts'
import type { Partition } from '../../../protocols/charter/schema.ts'
import type { Client } from '../client.ts'
import { loadBatches } from '../training/data.ts'
import { attackedText, countOf, withheldIn, type AttackedPiece } from './attacked-text.ts'
import { makeAttacks, type AttackContext, type AttackResult, type AuditProgress } from './attacks.ts'
import { gradientAttackOn, type GradientAttack } from './gradient-attack.ts'
import { trialDataOf } from './trial-data.ts'
import type { TrialData } from './trials.ts'
import { attackWithheld, type WithheldResult } from './withheld-attack.ts'

/** A model whose blocks keep only their windows can go back within a run of so many tokens, which guesses of withheld words need. */
const WITHHELD_SEQUENCE_TOKENS = 512

export interface TextOptions {
  readonly data: DataOptions
  /** Tokens to attack, at most. */
  readonly tokens: number
  readonly evalData: string | readonly string[] | undefined
  /** Rounds of trainings; 0 for none. */
  readonly rounds: number
  readonly partition: Partition
}

/** A text with what of it is attacked, and what trials learn. */
export interface PreparedText {
  readonly dataset: Dataset
  /** The rules by which words are withheld. */
  readonly rules: string | undefined
  readonly pieces: readonly AttackedPiece[]
  /** Tokens that are attacked. */
  readonly attacked: number
  /** Tokens among them that are withheld; undefined without rules. */
  readonly withheld: number | undefined
  /** The labels that are attacked by gradients, or why none are. */
  readonly labels: GradientAttack | string
  /** Undefined where no trials are wanted, or too few records can be held out. */
  readonly trials: TrialData | undefined
}

/** Reads a text and chooses what is attacked. Throws UsageError where nothing can be, and what reading it throws. */
export async function prepareText (
  { context: { charter, paths }, runtime: { model, tokenizer } }: Pick<Client, 'context' | 'runtime'>,
  { data, tokens, evalData, rounds, partition }: TextOptions,
  signal: AbortSignal
): Promise<PreparedText> {
  const { withhold: rules } = data
  const { dataset, batches, batching } = await loadBatches(data, 'learn', paths.model, charter, signal)
  const { bosId, eosIds } = await tokenizer.facts()
  const special = new Set([...eosIds, ...bosId === undefined ? [] : [bosId]])
  const pieces = attackedText(batches, { tokens, maxPositions: mostAttacked(model, rules), special })
  const sequences = pieces.map(({ whole }) => whole)
  const [attacked, withheld] = [countOf(sequences), withheldIn(sequences)]
  if (attacked - withheld === 0) throw new UsageError('the text has no token after the first ones that could be attacked', 'give more text')
  if (rules !== undefined && withheld === 0)
    throw new UsageError('none of the attacked tokens is withheld by these rules', 'attack more with --tokens, or give other rules')
  const loaded = { examples: dataset.examples, batches, batching }
  return {
    dataset,
    rules,
    pieces,
    attacked,
    withheld: rules === undefined ? undefined : withheld,
    labels: gradientAttackOn(batches, { charter, model, partition, tokens, special }),
    trials: rounds === 0 ? undefined : await trialDataOf({ data, evalData, modelPath: paths.model, charter }, loaded, signal)
  }
}

/** What attacks on a text found. */
export interface TextFindings {
  readonly attacks: readonly [AttackResult, ...AttackResult[]]
  /** Where words are withheld: by which rules, and what can be guessed of them. */
  readonly withheld: WithheldResult & { readonly rules: string } | undefined
}

/** Attacks what is sent of a text, and by that what is withheld of it. Yields how far that is. */
export async function * attackText (
  context: AttackContext,
  { pieces, labels, rules }: Pick<PreparedText, 'pieces' | 'labels' | 'rules'>,
  signal: AbortSignal
): AsyncGenerator<AuditProgress, TextFindings> {
  const sequences = pieces.map(({ sent }) => sent).filter(({ positions }) => positions.length > 0)
  const attacks = yield * makeAttacks(context, { sequences, labels: typeof labels === 'string' ? undefined : labels }, signal)
  if (rules === undefined) return { attacks, withheld: undefined }
  return { attacks, withheld: { rules, ...yield * attackWithheld(context, pieces, attacks[0], signal) } }
}

/** Bounds the tokens of a sequence that are attacked. */
function mostAttacked ({ maxPositions }: Pick<Model, 'maxPositions'>, rules: string | undefined): number {
  return rules === undefined ? maxPositions : Math.min(maxPositions, WITHHELD_SEQUENCE_TOKENS)
}
