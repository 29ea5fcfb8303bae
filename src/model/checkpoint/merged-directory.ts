import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readdir, stat, statfs } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { createDirectory, makeDirectories, replaceFile, writeFully } from './atomic.ts'
import { MAX_COMPANION_BYTES, openModelDirectory, type ModelDirectory } from './directory.ts'
import { MergeError } from './errors.ts'
import { digest, type FilePrint } from './fingerprint.ts'
import { MergedTensors, type ModelChanges } from './merge.ts'
import { SafetensorsFile, writeSafetensorsFrom } from './safetensors.ts'

export interface MergeOptions {
  /** Hashes that the base's tensors must have; no others are looked at when left out. */
  readonly expected?: Readonly<Record<string, FilePrint>> | undefined
  readonly signal?: AbortSignal | undefined
}

export interface MergedModel {
  readonly directory: string
  readonly tensors: number
  /** How many of them training changed. */
  readonly changed: number
  readonly bytes: number
}

/**
 * Files of a model directory that go along: whatever it says about itself, its tokenizer, its licence and code published with it. Weights
 * do not.
 */
const companionPattern = /^(?:[^.][^/]*\.(?:json|txt|model|jinja|py|tiktoken)|(?:LICEN[SC]E|NOTICE|USE_POLICY)[^/]*)$/i

/** Left free beside the model itself. */
const SPARE_BYTES = 16 * 1024 * 1024

/**
 * Writes a base model with what training made of it as a Hugging Face directory: the same files with the same tensors in the same types,
 * one tensor in memory at a time. What was written is opened and read again before it takes its name, so `out` is whole or absent. Throws
 * MergeError.
 */
export async function writeMergedModel (
  base: ModelDirectory,
  changes: ModelChanges,
  out: string,
  { expected, signal }: MergeOptions = {}
): Promise<MergedModel> {
  const directory = resolve(out)
  const merged = new MergedTensors(base, changes)
  const shards = await Promise.all(
    [...new Set(base.tensorNames().map((name) => base.info(name).file))].map(async (file) =>
      await SafetensorsFile.open(join(base.path, file))
    )
  )
  const bytes = shards.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)
  await checkTarget(directory, bytes)
  if (expected !== undefined) await checkBase(base, merged, expected, signal)
  await createDirectory(directory, async (temporary) => {
    const written = new Map<string, string>()
    for (const shard of shards) {
      await writeSafetensorsFrom(
        join(temporary, basename(shard.path)),
        shard.tensors,
        (name) =>
          hashed(merged.has(name) ? [merged.read(name, signal)] : shard.chunks(name, signal), (hash) => {
            written.set(name, hash)
          }),
        { metadata: Object.fromEntries(shard.metadata) }
      )
    }
    for (const name of written.keys()) if (!merged.has(name)) checkPrint(base, name, written.get(name)!, expected)
    await copyCompanions(base.path, temporary)
    await verify(temporary, written, signal)
  })
  return { directory, tensors: base.tensorNames().length, changed: merged.names.length, bytes }
}

async function checkTarget (path: string, bytes: number): Promise<void> {
  const present = await readdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw new MergeError(`${path} cannot be written`, 'name a directory that is not there yet', error)
  })
  if (present.length > 0) throw new MergeError(`${path} is not empty`, 'name a directory that is not there yet')
  await makeDirectories(dirname(path))
  const { bavail, bsize } = await statfs(dirname(path))
  if (bavail * bsize < bytes + SPARE_BYTES)
    throw new MergeError(
      `the merged model takes ${bytes} bytes, and there are ${bavail * bsize} at ${dirname(path)}`,
      'free some space or name another directory'
    )
}

/** Hashes the tensors that will be changed; the others are hashed as they are copied. */
async function checkBase (
  base: ModelDirectory,
  merged: MergedTensors,
  expected: Readonly<Record<string, FilePrint>>,
  signal: AbortSignal | undefined
): Promise<void> {
  for (const name of Object.keys(expected)) if (!base.has(name)) throw wrongBase(base, name)
  for (const name of merged.names) checkPrint(base, name, (await digest(base.chunks(name, signal))).sha256, expected)
}

function checkPrint (base: ModelDirectory, name: string, sha256: string, expected: Readonly<Record<string, FilePrint>> | undefined): void {
  const print = expected !== undefined && Object.hasOwn(expected, name) ? expected[name] : undefined
  if (print !== undefined && print.sha256 !== sha256) throw wrongBase(base, name)
}

function wrongBase ({ path }: ModelDirectory, name: string): MergeError {
  return new MergeError(
    `${path} is not the model that was trained: ${name} is another or missing`,
    'name the model that the federation was founded with'
  )
}

/** Returns the same bytes, and at the end their hex SHA-256. */
async function* hashed (
  chunks: AsyncIterable<Uint8Array> | Iterable<Promise<Uint8Array>>,
  done: (sha256: string) => void
): AsyncGenerator<Uint8Array> {
  const hash: Hash = createHash('sha256')
  for await (const chunk of chunks) {
    hash.update(chunk)
    yield chunk
  }
  done(hash.digest('hex'))
}

async function copyCompanions (from: string, to: string): Promise<void> {
  for (const name of (await readdir(from)).filter((name) => companionPattern.test(name))) {
    const source = join(from, name)
    const { size } = await stat(source)
    if (size > MAX_COMPANION_BYTES)
      throw new MergeError(`${source} has ${size} bytes; at most ${MAX_COMPANION_BYTES} are copied`, 'move it out of the model directory')
    await replaceFile(join(to, name), async (handle) => {
      for await (const chunk of createReadStream(source)) await writeFully(handle, chunk as Buffer)
    })
  }
}

/** Opens what was written as any model directory, and reads every tensor again. */
async function verify (path: string, written: ReadonlyMap<string, string>, signal: AbortSignal | undefined): Promise<void> {
  const directory = await openModelDirectory(path)
  for (const name of directory.tensorNames()) {
    if ((await digest(directory.chunks(name, signal))).sha256 !== written.get(name))
      throw new MergeError(`${name} did not come back from the disk as it was written`, 'write to another disk')
  }
}
