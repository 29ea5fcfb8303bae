import { sequencesOf, type HiddenStates, type Sequences } from '../../../model/layers/hidden-states.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import type { Batch } from '../../../model/text/batches.ts'
import type { Loss } from '../../../model/training/client-model.ts'
import { initialGate } from '../../../model/training/own-stream.ts'
import type { Tensor } from '../../../tensor.ts'
import type { ClientProtection } from '../../charter-settings.ts'
import type { ReleaseLedger } from '../release-ledger.ts'
import type { ClientRuntime } from '../runtime.ts'
import { ownHidden } from './own-pass.ts'

export interface EvaluationComponents extends Pick<ClientRuntime, 'device' | 'clientModel' | 'boundary'> {
  /** How much of what the middle adds goes to withheld tokens; as training starts unless given. */
  readonly gate?: { readonly value: Tensor }
}

export interface ReleasingComponents extends EvaluationComponents {
  readonly ledger: Pick<ReleaseLedger, 'record'>
}

/** Where a batch stands, for the ledger. */
export interface EvaluatedPlace {
  /** Names the evaluation. */
  readonly evaluation: string
  readonly index: number
  /** Rows that replacing one record can change, at most. */
  readonly recordRows: number
}

/** A batch whose hidden states were released. They are sent as they are however often that is tried: they are never drawn anew. */
export interface ReleasedBatch extends Sequences {
  readonly batch: Batch
  /** In the encoding of the wire. */
  readonly tensors: readonly Tensor[]
  /** The hidden states as they were, where the residual stream stays here. */
  readonly kept?: Tensor
}

/** Computes a batch up to the middle. It is in the ledger then. */
export async function releaseBatch (
  { device, clientModel: { bottom }, boundary, ledger }: ReleasingComponents,
  batch: Batch,
  { hidden: protection, keepsStream }: ClientProtection,
  { evaluation, index, recordRows }: EvaluatedPlace
): Promise<ReleasedBatch> {
  using scope = new Scope(device)
  const { hidden } = await bottom.forward(batch.ids, { keepResiduals: false })
  const { tensors } = await boundary.protect(scope.own(hidden), protection)
  await ledger.record({
    purpose: 'evaluate',
    kind: 'hidden',
    work: evaluation,
    epoch: 0,
    index,
    rows: hidden.shape[0]!,
    sequences: batch.ids.length,
    recordRows,
    clip: protection.clip,
    noise: protection.noise
  }, tensors)
  const kept = keepsStream ? { kept: await device.download(hidden) } : {}
  return { batch, ...sequencesOf(bottom.span.model, batch.ids), tensors, ...kept }
}

/** Computes the loss of a batch, which stays here, from what came back from the middle. */
export async function lossOf (components: EvaluationComponents, released: ReleasedBatch, outputs: readonly Tensor[]): Promise<Loss> {
  using scope = new Scope(components.device)
  const rows = await afterMiddle(components, scope, released, outputs)
  return await components.clientModel.top.evaluate(rows, (released.batch.own ?? released.batch).targets)
}

/** Computes the loss of each sequence of a batch without withheld words, which stays here, from what came back from the middle. */
export async function lossesOf (components: EvaluationComponents, released: ReleasedBatch, outputs: readonly Tensor[]): Promise<Loss[]> {
  using scope = new Scope(components.device)
  const rows = await afterMiddle(components, scope, released, outputs)
  return await components.clientModel.top.losses(rows, released.batch.targets)
}

/** Returns the hidden states that the top begins with, on the residual stream where that stays here. The scope frees them. */
async function afterMiddle (
  { device, clientModel: model, boundary, gate }: EvaluationComponents,
  scope: Scope,
  { batch: { own }, tensors, kept, ...sequences }: ReleasedBatch,
  outputs: readonly Tensor[]
): Promise<HiddenStates> {
  if (own !== undefined) {
    const { model: { hiddenSize } } = model.bottom.span
    const components = { device, model, boundary, gate: gate?.value ?? initialGate(hiddenSize) }
    const hidden = await ownHidden(components, own, { released: tensors, back: outputs })
    return { hidden: scope.own(hidden), ...sequencesOf(model.bottom.span.model, own.ids) }
  }
  const back = await boundary.decoding(outputs)
  const whole = kept === undefined ? back : await boundary.keepStream(kept, tensors, back)
  return { hidden: scope.own(await boundary.computed(whole)), ...sequences }
}
