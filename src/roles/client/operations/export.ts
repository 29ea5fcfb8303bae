import { resolve } from 'node:path'
import { z } from 'zod'
import { peftTensorName, writePeftAdapter } from '../../../model/checkpoint/peft.ts'
import { adapterSettings } from '../../settings.ts'
import type { ClientCore } from '../core.ts'
import { parseParameters } from '../work.ts'

const parametersSchema = z.strictObject({ out: z.string().min(1) })

/** Writes the adapters of all blocks, as of now, as a PEFT adapter directory. */
export async function * exportAdapter (core: ClientCore, params: unknown, signal: AbortSignal): AsyncGenerator<object> {
  const directory = resolve(parseParameters(parametersSchema, params).out)
  const { round, values } = await core.allAdapters(signal)
  const { charter } = core.context
  const { r, alpha, dropout, rslora, targets } = adapterSettings(charter)
  const tensors = new Map([...values].map(([name, value]) => [peftTensorName(core.model.layersPrefix, name), value]))
  const named = charter.model.config._name_or_path
  await writePeftAdapter(directory, { baseModel: typeof named === 'string' && named !== '' ? named : charter.name, r, alpha, dropout, rslora, targets, tensors, dtype: 'F32' })
  yield {
    type: 'done',
    directory,
    tensors: tensors.size,
    round,
    parameters: [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0)
  }
}
