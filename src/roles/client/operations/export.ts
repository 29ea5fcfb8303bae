import { exportSchema, writeExport } from '../../export.ts'
import { parseParameters } from '../../parameters.ts'
import type { Client } from '../client.ts'

/** Writes what all blocks were trained to, as of now: this client's own where ends are not shared. */
export async function * exportTrained ({ context, adapters }: Client, params: unknown, signal: AbortSignal): AsyncGenerator<object> {
  const options = parseParameters(exportSchema, params)
  yield * writeExport({ ...options, charter: context.charter, trained: await adapters.all(signal) }, signal)
}
