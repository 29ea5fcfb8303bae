import { openModelDirectory } from '../../../model/checkpoint/directory.ts'
import { checkWeights, spanTensors } from '../../../model/families/index.ts'
import { sequencesOf } from '../../../model/layers/hidden-states.ts'
import type { GradientOracleOptions, LabelledSequence } from '../../../model/privacy/audit/gradient-oracle.ts'
import { IGNORED_TARGET, type Batches } from '../../../model/text/batches.ts'
import { TrainableSpan } from '../../../model/training/trainable-span.ts'
import type { Charter, Partition } from '../../../protocols/charter/schema.ts'
import { trainableOf } from '../../charter-settings.ts'
import type { ClientRuntime } from '../runtime.ts'

/** Tokens of each sequence whose labels are attacked: every label is tried with the gradients of all rows of its sequence. */
const PIECE_TOKENS = 24

/** Multiplications that the attack may take: a minute on two cores. */
const MOST_WORK = 2e11

/** Labels that are tried for each token, at most. */
const MOST_CANDIDATES = 512

/** Labels that are attacked, at least: of fewer there is nothing to say. */
const FEWEST_LABELS = 50

export interface GradientAttack {
  readonly sequences: readonly LabelledSequence[]
  readonly candidates: number
}

/** Chooses labels of a text to attack, as many as can be tried in minutes. Returns a reason where they cannot be attacked. */
export function gradientAttackOn (
  batches: Batches,
  { charter: { adapters: { dropout } }, model, partition: { outputBlocks }, tokens, special }: Pick<ClientRuntime, 'model'> & {
    readonly charter: Charter
    readonly partition: Partition
    readonly tokens: number
    readonly special: ReadonlySet<number>
  }
): GradientAttack | string {
  if (dropout > 0) return 'adapters drop out, and every try would drop others'
  const { hiddenSize, vocabularySize, linears, maxPositions } = model
  const perRow = 3 * (vocabularySize * hiddenSize + outputBlocks * linears.reduce((sum, each) => sum + each.inputSize * each.outputSize, 0))
  const candidates = Math.min(vocabularySize, MOST_CANDIDATES)
  let left = Math.min(tokens, Math.floor(MOST_WORK / (candidates * PIECE_TOKENS * perRow)))
  if (left < Math.min(tokens, FEWEST_LABELS)) return 'with this vocabulary and these blocks it takes too long'
  const sequences: LabelledSequence[] = []
  for (let index = 0; index < batches.count(0) && left > 0; index++) {
    const { batch } = batches.at({ epoch: 0, index })
    for (const [i, sequence] of batch.ids.entries()) {
      const ids = sequence.slice(0, Math.min(PIECE_TOKENS, maxPositions - 1))
      const targets = batch.targets[i]!.slice(0, ids.length)
      const counts = (target: number): boolean => target !== IGNORED_TARGET && !special.has(target)
      const positions = targets.flatMap((target, position) => counts(target) ? [position] : []).slice(0, left)
      if (positions.length === 0) continue
      // The prior reads on to the label of the last token.
      const end = positions.at(-1)! + 1
      sequences.push({ ids: ids.slice(0, end), targets: targets.slice(0, end), positions })
      left -= positions.length
      if (left === 0) break
    }
  }
  return sequences.length === 0 ? 'no label counts among the first tokens' : { sequences, candidates }
}

/**
 * Opens what computes rows that enter the client's top, through the middle where the whole model is here, and past it otherwise, and the
 * gradients for them. The caller frees it.
 */
export async function openTop (
  { device, model, clientModel: { bottom, top, weights } }: Pick<ClientRuntime, 'device' | 'model' | 'clientModel'>,
  { charter, partition: { inputBlocks, outputBlocks }, wholeModel }: {
    readonly charter: Charter
    readonly partition: Partition
    readonly wholeModel: string | undefined
  }
): Promise<Pick<GradientOracleOptions, 'enter' | 'gradient'> & { readonly free: () => void }> {
  const span = { first: inputBlocks, end: model.layers - outputBlocks }
  const directory = wholeModel === undefined ? undefined : await openModelDirectory(wholeModel)
  if (directory !== undefined) checkWeights(model, directory, spanTensors(model, span))
  const middle = directory === undefined
    ? undefined
    : await TrainableSpan.load(device, model, directory, span, trainableOf(charter), { format: weights.format })
  return {
    async enter (ids) {
      const { hidden } = await bottom.forward([[...ids]], { keepResiduals: false })
      if (middle === undefined) return hidden
      try {
        return (await middle.forward({ hidden, ...sequencesOf(model, [ids]) }, { keepResiduals: false })).hidden
      } finally {
        device.free(hidden)
      }
    },
    async gradient (hidden, sequences, targets) {
      const { gradient, gradients } = await top.train({ hidden, ...sequencesOf(model, sequences) }, targets)
      device.free(...gradients.values())
      return gradient
    },
    free () {
      middle?.free()
    }
  }
}
