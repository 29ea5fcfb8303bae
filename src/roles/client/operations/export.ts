import type { EventOf, ParametersOf } from '../../../api/operations.ts'
import { writeExport } from '../../export.ts'
import type { Client } from '../client.ts'

/** Writes what all blocks were trained to, as of now: this client's own where ends are not shared. */
export async function * exportTrained (
  { context, adapters, gate }: Client,
  parameters: ParametersOf<'export'>,
  signal: AbortSignal
): AsyncGenerator<EventOf<'export'>> {
  const trained = await adapters.all(signal)
  yield { type: 'fetched', round: trained.round, tensors: trained.values.size }
  yield * writeExport({ ...parameters, charter: context.charter, trained, gate: gate.wasTrained ? gate.value : undefined }, signal)
}
