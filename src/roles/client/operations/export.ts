import { exportSchema, writeExport } from '../../export.ts'
import { parseParameters } from '../../parameters.ts'
import type { ClientRuntime } from '../runtime.ts'

/** Writes what all blocks were trained to, as of now: this client's own where ends are not shared. */
export async function * exportTrained (core: ClientRuntime, params: unknown, signal: AbortSignal): AsyncGenerator<object> {
  const options = parseParameters(exportSchema, params)
  yield * writeExport({ ...options, charter: core.context.charter, trained: await core.allAdapters(signal) }, signal)
}
