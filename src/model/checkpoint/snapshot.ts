import { createHash } from 'node:crypto'
import { rename, stat } from 'node:fs/promises'
import { bytesOf, type Tensor } from '../../tensor.ts'
import { storedTypeOf } from './dtypes.ts'
import { SnapshotError } from './errors.ts'
import { SafetensorsFile, writeSafetensors } from './safetensors.ts'

/** The version of the layout below; another version is refused rather than guessed at. */
const SNAPSHOT_VERSION = '1'

/** The state of a training run at one instant: whatever JSON it needs, and its tensors. */
export interface Snapshot {
  readonly meta: Readonly<Record<string, unknown>>
  readonly tensors: ReadonlyMap<string, Tensor>
}

export interface RestoredSnapshot extends Snapshot {
  /** True when the newest file was damaged or missing and the one before it was used. */
  readonly fallback: boolean
}

/** Returns where the snapshot before the newest is kept. */
export function previousSnapshot (path: string): string {
  return `${path}.previous`
}

/**
 * Writes a snapshot so that a crash at any instant leaves it or the one before it readable; the one before it is kept as `path.previous`.
 * One writer a path.
 */
export async function writeSnapshot (path: string, snapshot: Snapshot): Promise<void> {
  const meta = JSON.stringify(snapshot.meta)
  const metadata = { midspan_snapshot: SNAPSHOT_VERSION, meta, sha256: await digestOf(meta, snapshot.tensors) }
  await writeSafetensors(path, snapshot.tensors, {
    metadata,
    beforeRename: async () => { if (await exists(path)) await rename(path, previousSnapshot(path)) }
  })
}

/** Reads the newest intact snapshot; undefined when none was ever written. Throws SnapshotError when those present are all damaged. */
export async function readSnapshot (path: string): Promise<RestoredSnapshot | undefined> {
  const failures: unknown[] = []
  for (const candidate of [path, previousSnapshot(path)]) {
    if (!await exists(candidate)) continue
    try {
      return { ...await readIntact(candidate), fallback: candidate !== path }
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length === 0) return undefined
  throw new SnapshotError(
    `${path}: no snapshot is intact: ${failures.map((error) => error instanceof Error ? error.message : String(error)).join('; ')}`,
    'restore the file from a backup, or start the run anew',
    failures[0]
  )
}

async function readIntact (path: string): Promise<Snapshot> {
  const file = await SafetensorsFile.open(path)
  const version = file.metadata.get('midspan_snapshot')
  if (version !== SNAPSHOT_VERSION) throw new SnapshotError(`${path} is not a snapshot of version ${SNAPSHOT_VERSION}`)
  const tensors = new Map<string, Tensor>()
  for (const name of file.tensors.keys()) tensors.set(name, await file.readAsStored(name))
  const meta = file.metadata.get('meta') ?? ''
  if (await digestOf(meta, tensors) !== file.metadata.get('sha256')) throw new SnapshotError(`${path} does not match its own checksum`)
  return { meta: JSON.parse(meta) as Record<string, unknown>, tensors }
}

/** Bytes that are hashed before others get their turn: a few milliseconds' worth. */
const SLICE_BYTES = 4 * 1024 * 1024

/**
 * Computes SHA-256 over everything in a snapshot, so that a torn or altered file is noticed even where its header is sound. Lets others
 * have the thread between slices.
 */
export async function digestOf (meta: string, tensors: ReadonlyMap<string, Tensor>): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify(meta))
  let hashed = 0
  for (const [name, value] of [...tensors].sort(([a], [b]) => a < b ? -1 : 1)) {
    hash.update(JSON.stringify([name, storedTypeOf[value.dtype], value.shape]))
    const bytes = bytesOf(value)
    for (let at = 0; at < bytes.byteLength; at += SLICE_BYTES) {
      const slice = bytes.subarray(at, at + SLICE_BYTES)
      hash.update(slice)
      hashed += slice.byteLength
      if (hashed < SLICE_BYTES) continue
      hashed = 0
      await new Promise<void>((resolve) => setImmediate(resolve))
    }
  }
  return hash.digest('hex')
}

async function exists (path: string): Promise<boolean> {
  return await stat(path).then(() => true, () => false)
}
