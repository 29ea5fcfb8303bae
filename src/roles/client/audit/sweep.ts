import { UsageError } from '../../../errors.ts'
import type { ModelDirectory } from '../../../model/checkpoint/directory.ts'
import type { Figure } from '../../../model/privacy/audit/figures.ts'
import { leakOf, type Priced } from '../../../model/privacy/audit/frontier.ts'
import type { Prior } from '../../../model/privacy/audit/prior.ts'
import { AuditCheckError } from '../../../model/privacy/audit/self-checks.ts'
import { DatasetError } from '../../../model/text/errors.ts'
import { loadClientModel } from '../../../model/training/client-model.ts'
import type { ClientSettings } from '../../../protocols/charter/index.ts'
import type { Charter, Partition } from '../../../protocols/charter/schema.ts'
import { protectionOf, trainableOf } from '../../charter-settings.ts'
import type { ClientRuntime } from '../runtime.ts'
import type { AuditProgress } from './attacks.ts'
import { attackText, type PreparedText, type TextFindings } from './prepared-text.ts'
import { settingText, type Noises, type SweepGroup } from './sweep-plan.ts'
import { ALONE, openMiddle, tryOne, UNPROTECTED, type TrialPlace } from './trials.ts'

/** A setting that was tried. */
export interface TriedSetting extends Priced, Noises {
  readonly partition: Partition
  readonly rules: string | undefined
  readonly withheldShare: number
  /** The share of all attacked tokens that is recovered with the prior. */
  readonly recovered: Figure
}

export interface SweepFindings {
  readonly tried: readonly TriedSetting[]
  readonly unprotected: number
  /** The least loss of a client alone. */
  readonly alone: number
  readonly leftOut: ReadonlyArray<{ readonly setting: string, readonly reason: string }>
}

export interface SweepOptions {
  readonly charter: Charter
  readonly settings: ClientSettings
  readonly runtime: ClientRuntime
  readonly wholeModel: string
  readonly prior: Prior
  readonly rounds: number
  readonly groups: readonly SweepGroup[]
  /** Reads the text for these settings, or returns what it read before. */
  readonly textFor: (group: SweepGroup) => Promise<PreparedText>
  /** Returns milliseconds that are left. */
  readonly leftMs: () => number
}

/** Keeps how long each kind of work took, so that none is begun that will not end in time. */
class Budget {
  readonly #leftMs: () => number
  readonly #took = new Map<string, number>()

  constructor (leftMs: () => number) {
    this.#leftMs = leftMs
  }

  /** Whether there is time for works of these kinds, by how long each took last. */
  allows (...kinds: readonly string[]): boolean {
    return this.#leftMs() > kinds.reduce((sum, kind) => sum + (this.#took.get(kind) ?? 0), 0)
  }

  /** Does a work, and keeps how long it took. */
  async * timed<Result> (kind: string, work: AsyncGenerator<AuditProgress, Result>): AsyncGenerator<AuditProgress, Result> {
    const before = this.#leftMs()
    const result = yield * work
    this.#took.set(kind, before - this.#leftMs())
    return result
  }
}

const OUT_OF_TIME = 'the budget of time was used up'

/**
 * Tries settings one after another, in their order: attacks what each lets leave, and trains a copy of the model under it. The trainings of
 * a client alone and without protection come first, and one setting is tried whatever the budget. Yields how far it is. Throws what the
 * first setting throws, where none could be tried.
 */
export async function * sweep (options: SweepOptions, signal: AbortSignal): AsyncGenerator<AuditProgress, SweepFindings> {
  const { charter, settings, runtime, wholeModel, rounds, groups, textFor } = options
  const budget = new Budget(options.leftMs)
  const tried: TriedSetting[] = []
  const leftOut: Array<{ setting: string, reason: string }> = []
  let failure: unknown
  const middle = (await openMiddle({ charter, runtime, partition: settings.partition, wholeModel }))!
  const placeOf = (partition: Partition): TrialPlace => ({ charter, partition, runtime, ends: middle, rounds })
  const { plain } = (await textFor(groups[0]!)).trials!
  const bare = yield * budget.timed('trial', asProgress(tryOne(
    placeOf(settings.partition), { work: 'training without protection', middle, protection: UNPROTECTED, text: plain }, signal
  )))
  const alone = new Map<string, number>()
  const groupOf = async function * (group: SweepGroup): AsyncGenerator<AuditProgress> {
    const { partition, rules } = group
    if (!alone.has(String([partition.inputBlocks, partition.outputBlocks]))) {
      const { after } = yield * budget.timed('trial', asProgress(tryOne(placeOf(partition), { ...ALONE, text: plain }, signal)))
      alone.set(String([partition.inputBlocks, partition.outputBlocks]), after)
    }
    const text = await textFor(group)
    const found = yield * budget.timed('attack', attackGroup(options, { group, text, middle }, signal))
    for (const noises of group.noises) {
      const work = settingText(partition, rules, noises)
      if (tried.length > 0 && !budget.allows('trial')) {
        leftOut.push({ setting: work, reason: OUT_OF_TIME })
        continue
      }
      const protection = protectionOf(charter, { ...settings, partition, ...noises })
      const trial = { work: `training with ${work}`, middle, protection, text: text.trials!.deployed }
      const { after } = yield * budget.timed('trial', asProgress(tryOne(placeOf(partition), trial, signal)))
      tried.push({ partition, rules, ...noises, loss: after, ...pricedBy(found, noises) })
    }
  }
  for (const group of groups) {
    const setting = settingText(group.partition, group.rules)
    if (tried.length > 0 && !budget.allows('attack', 'trial')) {
      leftOut.push({ setting, reason: OUT_OF_TIME })
      continue
    }
    try {
      yield * groupOf(group)
    } catch (error) {
      // Rules that mark nothing of this text, or figures that cannot be believed, are those of one setting.
      if (!(error instanceof UsageError || error instanceof DatasetError || error instanceof AuditCheckError)) throw error
      failure ??= error
      leftOut.push({ setting, reason: error.message })
    }
  }
  if (tried.length === 0) throw failure
  return { tried, unprotected: bare.after, alone: Math.min(...alone.values()), leftOut }
}

/** Attacks what the settings of a group let leave, under all of their noises. */
async function * attackGroup (
  { charter, settings, runtime, wholeModel, prior }: SweepOptions,
  { group: { partition, noises }, text, middle }: {
    readonly group: SweepGroup
    readonly text: PreparedText
    readonly middle: ModelDirectory
  },
  signal: AbortSignal
): AsyncGenerator<AuditProgress, TextFindings> {
  const [hidden, gradient] = [noises.map(({ noise }) => noise), noises.map(({ gradientNoise }) => gradientNoise)]
  const most = { noise: Math.max(...hidden), gradientNoise: Math.max(...gradient) }
  const protection = protectionOf(charter, { ...settings, partition, ...most })
  const context = {
    charter,
    partition,
    protection,
    prior,
    wholeModel,
    noises: { hidden, gradient }
  }
  const own = settings.partition
  if (partition.inputBlocks === own.inputBlocks && partition.outputBlocks === own.outputBlocks)
    return yield * attackText({ ...context, runtime }, text, signal)
  const { device, model, clientModel: { weights: { format } } } = runtime
  const clientModel = await loadClientModel(device, model, middle, partition, trainableOf(charter), { format })
  try {
    return yield * attackText({ ...context, runtime: { ...runtime, directory: middle, clientModel } }, text, signal)
  } finally {
    clientModel.weights.free()
  }
}

/** Looks up what attacks found under one of the noises of a group. */
function pricedBy (
  { attacks, withheld }: TextFindings,
  { noise, gradientNoise }: Noises
): Pick<TriedSetting, 'leak' | 'recovered' | 'withheldShare'> {
  const [oracle] = attacks
  const gradients = attacks.find(({ name }) => name === 'gradients')
  const at = levelOf(oracle, noise)
  const hidden = oracle.released[at]!
  const leak = leakOf({
    hidden,
    gradient: gradients?.released[levelOf(gradients, gradientNoise)],
    withheld: withheld === undefined ? undefined : { ...withheld, whole: withheld.whole[at]! }
  })
  return { leak, recovered: (withheld?.whole[at] ?? hidden).withPrior, withheldShare: withheld?.share ?? 0 }
}

function levelOf ({ levels: { protections, bare } }: TextFindings['attacks'][number], noise: number): number {
  return noise === 0 ? bare : protections.findIndex((each) => each.noise === noise)
}

async function * asProgress (trial: ReturnType<typeof tryOne>): AsyncGenerator<AuditProgress, { before: number, after: number }> {
  for (;;) {
    const next = await trial.next()
    if (next.done === true) return next.value
    yield { type: 'progress', ...next.value }
  }
}
