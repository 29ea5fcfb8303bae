import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { UsageError } from '../../errors.ts'
import type { ModelDirectory } from '../../model/checkpoint/directory.ts'
import { peftTensorName } from '../../model/checkpoint/peft.ts'
import { SafetensorsFile } from '../../model/checkpoint/safetensors.ts'
import { clientTensors } from '../../model/families/index.ts'
import { isAdapter } from '../../model/layers/trainable.ts'
import { allowedPartitions, type Charter, type Partition } from '../../protocols/charter/index.ts'
import type { Servable, WeightSource } from '../../protocols/weights/index.ts'
import { charteredModel, clientSpans, shapesOf } from '../../roles/charter-settings.ts'

/** What a federation's clients may fetch: the companion files, and the tensors of every allowed partition's ends. */
export function servableOf (charter: Charter): Servable {
  return {
    files: new Set(Object.keys(charter.model.files)),
    tensors: new Set(allowedPartitions(charter).flatMap((partition) => tensorsOfEnds(charter, partition)))
  }
}

/** What a client with this partition fetches: the weights of its ends, and the adapters on them where training starts from given ones. */
export function tensorsOfEnds (charter: Charter, partition: Partition): string[] {
  const model = charteredModel(charter)
  const weights = clientTensors(model, partition)
  if (charter.adapters.initial === undefined) return weights
  const adapters = shapesOf(charter, clientSpans(charter, partition)).filter(({ name }) => isAdapter(name)).map(({ name }) =>
    peftTensorName(model.layersPrefix, name)
  )
  return [...weights, ...adapters]
}

/**
 * The bytes of a model directory, and of the adapter that training starts from, if the charter has one. Throws UsageError when they are
 * not those of the charter, as far as names and sizes tell.
 */
export async function weightSource (directory: ModelDirectory, charter: Charter, adapterPath: string): Promise<WeightSource> {
  const { model: { files, tensors }, adapters: { initial = {} } } = charter
  const adapter = charter.adapters.initial === undefined ? undefined : await SafetensorsFile.open(adapterPath)
  for (const [name, { bytes }] of Object.entries(initial)) {
    if (adapter?.tensors.get(name)?.bytes !== bytes)
      throw new UsageError(`${adapterPath} is not the adapter of the charter: ${name} is missing or has another size`, 'restore the file')
  }
  for (const [name, { bytes }] of Object.entries(files)) {
    const size = await stat(join(directory.path, name)).then(({ size }) => size, () => undefined)
    if (size !== bytes) throw changed(directory, name)
  }
  for (const [name, { bytes }] of Object.entries(tensors)) {
    if (!directory.has(name) || directory.info(name).bytes !== bytes) throw changed(directory, name)
  }
  return {
    sizeOf: (kind, name) => (kind === 'file' ? files[name] : tensors[name] ?? initial[name])?.bytes ?? 0,
    read: async (kind, name, offset, length, signal) => {
      if (kind === 'file') return await readRange(join(directory.path, name), offset, length)
      return await (adapter?.tensors.has(name) === true ? adapter : directory).readRaw(name, offset, length, signal)
    }
  }
}

async function readRange (path: string, offset: number, length: number): Promise<Uint8Array> {
  const file = await open(path, 'r')
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset)
    if (bytesRead !== length) throw new UsageError(`${path} became shorter`, 'restore the model that the federation was founded with')
    return buffer
  } finally {
    await file.close()
  }
}

function changed (directory: ModelDirectory, name: string): UsageError {
  return new UsageError(
    `${directory.path} is not the model of the charter: ${name} is missing or has another size`,
    'restore the model that the federation was founded with'
  )
}
