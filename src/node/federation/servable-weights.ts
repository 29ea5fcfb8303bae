import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { UsageError } from '../../errors.ts'
import type { ModelDirectory } from '../../model/checkpoint/directory.ts'
import { peftTensorName } from '../../model/checkpoint/peft.ts'
import { SafetensorsFile } from '../../model/checkpoint/safetensors.ts'
import type { ExpectedModel } from '../../model/checkpoint/store.ts'
import { checkWeights, clientTensors, spanTensors } from '../../model/families/index.ts'
import { isAdapter } from '../../model/layers/trainable.ts'
import { allowedPartitions, type Charter, type Partition } from '../../protocols/charter/index.ts'
import type { Servable, WeightSource } from '../../protocols/weights/index.ts'
import { charteredModel, clientSpans, servableSpan, shapesOf } from '../../roles/charter-settings.ts'
import type { Span } from '../../span.ts'

/**
 * What a federation's members may fetch, by their role: the companion files, and for clients the tensors of every allowed partition's ends,
 * for servers those of every block that servers serve.
 */
export function servableOf (charter: Charter): Readonly<Record<'client' | 'server', Servable>> {
  const files = new Set(Object.keys(charter.model.files))
  return {
    client: { files, tensors: new Set(allowedPartitions(charter).flatMap((partition) => tensorsOfEnds(charter, partition))) },
    server: { files, tensors: new Set(tensorsOfSpan(charter, servableSpan(charter))) }
  }
}

/** The part of what may be fetched that a server with these blocks has. */
export function heldPart ({ files, tensors }: Servable, held: ReadonlySet<string>): Servable {
  return { files, tensors: tensors.intersection(held) }
}

/** What a client with this partition fetches: the weights of its ends, and the adapters on them where training starts from given ones. */
export function tensorsOfEnds (charter: Charter, partition: Partition): string[] {
  return [...clientTensors(charteredModel(charter), partition), ...initialAdapters(charter, clientSpans(charter, partition))]
}

/** What a server of these blocks fetches: their weights, and the adapters on them where training starts from given ones. */
export function tensorsOfSpan (charter: Charter, span: Span): string[] {
  return [...spanTensors(charteredModel(charter), span), ...initialAdapters(charter, [span])]
}

/** The names of the adapters on these blocks that training starts from; none where they follow from the seed. */
export function initialAdapters (charter: Charter, spans: readonly Span[]): string[] {
  if (charter.adapters.initial === undefined) return []
  const { layersPrefix } = charteredModel(charter)
  return shapesOf(charter, spans).filter(({ name }) => isAdapter(name)).map(({ name }) => peftTensorName(layersPrefix, name))
}

/**
 * Returns what a partial model with these tensors consists of, with the sizes and hashes of the charter. Throws MissingTensorError and
 * TensorMismatchError where the charter's list does not fit its model, and UsageError where it lacks an adapter.
 */
export function expectedModel (charter: Charter, names: readonly string[]): ExpectedModel {
  const { model: { tensors, files }, adapters: { initial = {} } } = charter
  checkWeights(charteredModel(charter), {
    path: 'the charter',
    has: (name) => Object.hasOwn(tensors, name),
    info: (name) => tensors[name]!,
    tensorNames: () => Object.keys(tensors)
  }, names)
  const prints = { ...initial, ...tensors }
  const missing = names.find((name) => !Object.hasOwn(prints, name))
  if (missing !== undefined)
    throw new UsageError(
      `the charter describes no tensor ${missing}, which training starts from`,
      "ask the founder: the federation's adapter is incomplete"
    )
  return { tensors: Object.fromEntries(names.map((name) => [name, prints[name]!])), files }
}

/**
 * The bytes of a model directory, and of the adapter that training starts from, if the charter has one: of these tensors, or of all that
 * the charter names. Throws UsageError when they are not those of the charter, as far as names and sizes tell.
 */
export async function weightSource (
  directory: ModelDirectory,
  charter: Charter,
  adapterPath: string,
  held?: ReadonlySet<string>
): Promise<WeightSource> {
  const { model: { files, tensors }, adapters: { initial = {} } } = charter
  const isHeld = (name: string): boolean => held?.has(name) !== false
  const adapter = charter.adapters.initial === undefined ? undefined : await SafetensorsFile.open(adapterPath)
  for (const [name, { bytes }] of Object.entries(initial)) {
    if (isHeld(name) && adapter?.tensors.get(name)?.bytes !== bytes)
      throw new UsageError(`${adapterPath} is not the adapter of the charter: ${name} is missing or has another size`, 'restore the file')
  }
  for (const [name, { bytes }] of Object.entries(files)) {
    const size = await stat(join(directory.path, name)).then(({ size }) => size, () => undefined)
    if (size !== bytes) throw changed(directory, name)
  }
  for (const [name, { bytes }] of Object.entries(tensors)) {
    if (isHeld(name) && (!directory.has(name) || directory.info(name).bytes !== bytes)) throw changed(directory, name)
  }
  return {
    sizeOf: (kind, name) => (kind === 'file' ? files[name] : tensors[name] ?? initial[name])?.bytes ?? 0,
    read: async (kind, name, offset, length, signal) => {
      if (kind === 'file') return await readRange(join(directory.path, name), offset, length)
      return await (Object.hasOwn(tensors, name) ? directory : adapter ?? directory).readRaw(name, offset, length, signal)
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
