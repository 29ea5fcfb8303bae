import { sequencesOf } from '../../../model/layers/hidden-states.ts'
import type { Boundary, Protection } from '../../../model/privacy/boundary.ts'
import type { Device } from '../../../model/runtime/device.ts'
import { Scope } from '../../../model/runtime/scope.ts'
import type { Batch } from '../../../model/text/batches.ts'
import type { ClientModel, Loss } from '../../../model/training/client-model.ts'
import type { Stage } from '../../middle/stage.ts'

export interface EvaluationComponents {
  readonly device: Device
  readonly clientModel: ClientModel
  readonly boundary: Boundary
  readonly route: Stage
}

/** Computes the loss of a batch, which stays here, with the middle on the route. Throws BadMessageError for a bad answer. */
export async function evaluateBatch (
  { device, clientModel: { bottom, top }, boundary, route }: EvaluationComponents,
  { ids, targets }: Batch,
  protection: Protection,
  signal: AbortSignal
): Promise<Loss> {
  using scope = new Scope(device)
  const sequences = sequencesOf(bottom.span.model, ids)
  const { hidden } = await bottom.forward(ids, { keepResiduals: false })
  const { tensors } = await boundary.protect(scope.own(hidden), protection)
  const outputs = await route.evaluate({ id: 'self', ...route.span, ...sequences, tensors }, signal)
  return await top.evaluate({ hidden: scope.own(await boundary.decode(outputs)), ...sequences }, targets)
}
