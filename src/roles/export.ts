import { lstat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { EventOf, ParametersOf, ResultOf } from '../api/operations.ts'
import { MidspanError } from '../errors.ts'
import { openModelDirectory } from '../model/checkpoint/directory.ts'
import { writeMergedModel } from '../model/checkpoint/merged-directory.ts'
import { peftBiasName, peftFiles, peftSavedName, peftTensorName, writePeftAdapter, type PeftAdapter } from '../model/checkpoint/peft.ts'
import { writeSafetensors } from '../model/checkpoint/safetensors.ts'
import { isAdapter } from '../model/layers/trainable.ts'
import type { Charter } from '../protocols/charter/schema.ts'
import type { Tensor } from '../tensor.ts'
import { charteredModel, trainableOf } from './charter-settings.ts'
import { blockOf } from './training/aggregation/strategy.ts'

export interface ExportOptions extends Omit<ParametersOf<'export'>, 'force' | 'timeoutMs'> {
  /** Replaces an adapter that stands in the directory. */
  readonly force?: boolean
  readonly charter: Charter
  /** All that is trained, by name, as of a round. */
  readonly trained: { readonly round: number, readonly values: ReadonlyMap<string, Tensor> }
  /** How much of what the middle adds goes to withheld words, [hidden], where a client has trained that: a file beside the adapter. */
  readonly gate?: Tensor | undefined
}

/** Where an exported adapter has the gate of withheld words: PEFT knows nothing of it. */
export const GATE_FILE = 'withholding.safetensors'

/** Thrown for what this peer cannot export. */
export class ExportError extends MidspanError {
  constructor (message: string, next: string) {
    super('E_EXPORT', message, { next })
  }
}

/** Writes what was trained as a PEFT adapter directory or as a merged model. Yields one event, the result. */
export async function * writeExport (options: ExportOptions, signal: AbortSignal): AsyncGenerator<EventOf<'export'>> {
  const { merged, trained: { round, values } } = options
  const parameters = [...values.values()].reduce((sum, { data }) => sum + data.length, 0)
  const written = merged ? await writeMerged(options, signal) : await writeAdapter(options)
  yield { type: 'done', format: merged ? 'merged' : 'peft', round, parameters, ...written }
}

type Written = Omit<ResultOf<'export'>, 'type' | 'format' | 'round' | 'parameters'>

async function writeAdapter (options: ExportOptions): Promise<Written> {
  const { charter, trained: { values }, force = false } = options
  const directory = resolve(options.out)
  if (![...values.keys()].some(isAdapter))
    throw new ExportError(
      'every block is trained whole, and PEFT loads no directory without an adapter',
      'export the merged model with --merged'
    )
  if (!force) await refuseOverFiles(directory)
  const baseModel = baseModelOf(options)
  await writePeftAdapter(directory, { ...peftAdapter(charter, values, baseModel), dtype: 'F32' })
  if (options.gate !== undefined) await writeSafetensors(join(directory, GATE_FILE), new Map([['gate', options.gate]]))
  return { directory, tensors: values.size, baseModel }
}

/** Throws ExportError where the directory has a file that the export would replace: somebody may be using it. */
async function refuseOverFiles (directory: string): Promise<void> {
  for (const name of [...peftFiles, GATE_FILE]) {
    const path = join(directory, name)
    if (await lstat(path).then(() => true, () => false))
      throw new ExportError(`${path} is there already`, 'choose another directory, or replace it with --force')
  }
}

/**
 * Returns what the adapter names as its base model: what the user says, the name in the model's own configuration, or the directory of
 * the whole model here. Null where none is known: a loader would ask a hub for whatever else stood there, which a stranger may have taken.
 */
function baseModelOf ({ baseModel, charter, model }: ExportOptions): string | null {
  const named = charter.model.config._name_or_path
  return baseModel ?? (typeof named === 'string' && named !== '' ? named : undefined) ?? (model === undefined ? null : resolve(model))
}

async function writeMerged ({ charter, trained: { values }, out, model }: ExportOptions, signal: AbortSignal): Promise<Written> {
  if (model === undefined)
    throw new ExportError(
      'a client holds only its ends of the model',
      'name a directory that has all of it with --model, or export where the server runs'
    )
  const adapters = new Map([...values].filter(([name]) => isAdapter(name)))
  const changes = {
    adapter: adapters.size === 0 ? undefined : peftAdapter(charter, adapters, null),
    values: new Map([...values].filter(([name]) => !isAdapter(name)))
  }
  const { directory, tensors, changed, bytes } = await writeMergedModel(await openModelDirectory(model), changes, out, {
    expected: charter.model.tensors,
    signal
  })
  return { directory, tensors, changed, bytes }
}

function peftAdapter (charter: Charter, values: ReadonlyMap<string, Tensor>, baseModel: string | null): PeftAdapter {
  const { layersPrefix } = charteredModel(charter)
  const { r, alpha, dropout, rslora, targets, bias, blocks = [] } = trainableOf(charter)
  const isWhole = (name: string): boolean => !isAdapter(name) && blocks.includes(blockOf(name))
  const moduleOf = (name: string): string => name.slice(0, name.lastIndexOf('.'))
  const saved = new Set([...values.keys()].filter(isWhole).map(moduleOf))
  const peftName = (name: string): string => {
    if (isAdapter(name)) return peftTensorName(layersPrefix, name)
    return isWhole(name) ? peftSavedName(name) : peftBiasName(name, targets.includes(name.split('.').at(-2)!))
  }
  return {
    baseModel,
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
