import { resolve } from 'node:path'
import { z } from 'zod'
import { MidspanError } from '../errors.ts'
import { openModelDirectory } from '../model/checkpoint/directory.ts'
import { writeMergedModel } from '../model/checkpoint/merged-directory.ts'
import { peftBiasName, peftSavedName, peftTensorName, writePeftAdapter, type PeftAdapter } from '../model/checkpoint/peft.ts'
import { isAdapter } from '../model/layers/trainable.ts'
import type { Charter } from '../protocols/charter/schema.ts'
import type { Tensor } from '../tensor.ts'
import { charteredModel, trainableOf } from './charter-settings.ts'
import { blockOf } from './training/aggregation/adapter-shapes.ts'

export const exportSchema = z.strictObject({
  out: z.string().min(1),
  /** The whole model with what was trained in it, instead of an adapter. */
  merged: z.boolean().default(false),
  /** The base model's directory, where this peer does not have the whole model itself. */
  model: z.string().min(1).optional()
})

export interface ExportOptions extends z.output<typeof exportSchema> {
  readonly charter: Charter
  /** All that is trained, by name, as of a round. */
  readonly trained: { readonly round: number, readonly values: ReadonlyMap<string, Tensor> }
}

/** Thrown for what this peer cannot export. */
export class ExportError extends MidspanError {
  constructor (message: string, next: string) {
    super('E_EXPORT', message, { next })
  }
}

/** Writes what was trained as a PEFT adapter directory or as a merged model. Yields one event, `done`. */
export async function * writeExport (options: ExportOptions, signal: AbortSignal): AsyncGenerator<object> {
  const { merged, charter, trained: { round, values } } = options
  const parameters = [...values.values()].reduce((sum, { data }) => sum + data.length, 0)
  yield {
    type: 'done',
    format: merged ? 'merged' : 'peft',
    round,
    parameters,
    ...merged ? await writeMerged(options, signal) : await writeAdapter(charter, values, resolve(options.out))
  }
}

async function writeAdapter (charter: Charter, values: ReadonlyMap<string, Tensor>, directory: string): Promise<object> {
  if (![...values.keys()].some(isAdapter))
    throw new ExportError(
      'every block is trained whole, and PEFT loads no directory without an adapter',
      'export the merged model with --merged'
    )
  await writePeftAdapter(directory, { ...peftAdapter(charter, values), dtype: 'F32' })
  return { directory, tensors: values.size }
}

async function writeMerged ({ charter, trained: { values }, out, model }: ExportOptions, signal: AbortSignal): Promise<object> {
  if (model === undefined)
    throw new ExportError(
      'a client holds only its ends of the model',
      'name a directory that has all of it with --model, or export where the server runs'
    )
  const adapters = new Map([...values].filter(([name]) => isAdapter(name)))
  const changes = {
    adapter: adapters.size === 0 ? undefined : peftAdapter(charter, adapters),
    values: new Map([...values].filter(([name]) => !isAdapter(name)))
  }
  const { directory, tensors, changed, bytes } = await writeMergedModel(await openModelDirectory(model), changes, out, {
    expected: charter.model.tensors,
    signal
  })
  return { directory, tensors, changed, bytes }
}

function peftAdapter (charter: Charter, values: ReadonlyMap<string, Tensor>): PeftAdapter {
  const { layersPrefix } = charteredModel(charter)
  const { r, alpha, dropout, rslora, targets, bias, blocks = [] } = trainableOf(charter)
  const named = charter.model.config._name_or_path
  const isWhole = (name: string): boolean => !isAdapter(name) && blocks.includes(blockOf(name))
  const moduleOf = (name: string): string => name.slice(0, name.lastIndexOf('.'))
  const saved = new Set([...values.keys()].filter(isWhole).map(moduleOf))
  const peftName = (name: string): string => {
    if (isAdapter(name)) return peftTensorName(layersPrefix, name)
    return isWhole(name) ? peftSavedName(name) : peftBiasName(name, targets.includes(name.split('.').at(-2)!))
  }
  return {
    baseModel: typeof named === 'string' && named !== '' ? named : charter.name,
    r,
    alpha,
    dropout,
    rslora,
    targets,
    ...bias === undefined || bias === 'none' ? {} : { bias },
    // Module by module: PEFT 0.7 fails to look for modules to adapt inside a block that it saves whole.
    ...saved.size === 0 ? {} : { modulesToSave: [...saved] },
    tensors: new Map([...values].map(([name, value]) => [peftName(name), value]))
  }
}
