import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { ModelDirectory } from '../model/checkpoint/directory.ts'
import { endTensors } from '../model/families/index.ts'
import { allowedPartitions, type Charter } from '../protocols/charter/index.ts'
import type { Servable, WeightSource } from '../protocols/weights/index.ts'
import { UsageError } from '../errors.ts'

/** What a federation's clients may fetch: the companion files, and the tensors of every allowed partition's ends. */
export function servableOf (charter: Charter): Servable {
  return {
    files: new Set(Object.keys(charter.model.files)),
    tensors: new Set(allowedPartitions(charter).flatMap((partition) => endTensors(charter.model.config, partition)))
  }
}

/** The bytes of a model directory. Throws UsageError when the directory is not the model of the charter, as far as names and sizes tell. */
export async function weightSource (directory: ModelDirectory, charter: Charter): Promise<WeightSource> {
  const { files, tensors } = charter.model
  for (const [name, { bytes }] of Object.entries(files)) {
    const size = await stat(join(directory.path, name)).then(({ size }) => size, () => undefined)
    if (size !== bytes) throw changed(directory, name)
  }
  for (const [name, { bytes }] of Object.entries(tensors)) {
    if (!directory.has(name) || directory.info(name).bytes !== bytes) throw changed(directory, name)
  }
  return {
    sizeOf: (kind, name) => (kind === 'file' ? files : tensors)[name]?.bytes ?? 0,
    read: async (kind, name, offset, length, signal) => kind === 'file'
      ? await readRange(join(directory.path, name), offset, length)
      : await directory.readRaw(name, offset, length, signal)
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
  return new UsageError(`${directory.path} is not the model of the charter: ${name} is missing or has another size`, 'restore the model that the federation was founded with')
}
