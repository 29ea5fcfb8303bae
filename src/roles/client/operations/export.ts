import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { writeExport } from '../../export.ts'
import type { ClientRuntime } from '../runtime.ts'

/** Writes what all blocks were trained to, as of now: this client's own where ends are not shared. */
export async function * exportTrained (
  core: ClientRuntime,
  parameters: ParametersOf<'export'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'export'>> {
  const trained = await core.allAdapters(signal)
  yield { type: 'fetched', round: trained.round, tensors: trained.values.size }
  yield * writeExport({ ...parameters, charter: core.context.charter, trained }, signal)
}
