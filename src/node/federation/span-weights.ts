import { createReadStream } from 'node:fs'
import { join } from 'node:path'
import { UsageError } from '../../errors.ts'
import { openModelDirectory } from '../../model/checkpoint/directory.ts'
import { digest } from '../../model/checkpoint/fingerprint.ts'
import type { ExpectedModel } from '../../model/checkpoint/store.ts'
import type { Charter } from '../../protocols/charter/index.ts'
import type { Announcement } from '../../protocols/directory/index.ts'
import { commonSpan, type Span } from '../../span.ts'
import { expectedModel, initialAdapters, tensorsOfSpan } from './servable-weights.ts'

/** How far the check of a model directory is. */
export type CheckEvent = { readonly type: 'check', readonly totalBytes: number, readonly doneBytes: number }

/** Workers that weights are fetched from beside the founder's server: a few of them fill any network link. */
const MAX_SOURCES = 4

/** Returns the workers that have most of these blocks, the founder's server left out, with the names of what they have. */
export function workersWith (
  span: Span,
  charter: Charter,
  announcements: readonly Announcement[]
): Array<{ readonly announcement: Announcement, readonly held: ReadonlySet<string> }> {
  const shared = (announcement: Announcement): number => {
    const { first = 0, end = 0 } = commonSpan(announcement.span, span) ?? {}
    return end - first
  }
  return announcements.filter((announcement) => announcement.peer !== charter.founder && shared(announcement) > 0)
    .toSorted((a, b) => shared(b) - shared(a)).slice(0, MAX_SOURCES)
    .map((announcement) => ({ announcement, held: new Set(tensorsOfSpan(charter, announcement.span)) }))
}

/**
 * Returns what a server of these blocks fetches: their weights, or where it has a model directory the adapters alone that training starts
 * from, which no model directory has. It may be nothing.
 */
export function weightsToFetch (charter: Charter, span: Span, model: string | undefined): ExpectedModel {
  const expected = expectedModel(charter, tensorsOfSpan(charter, span))
  if (model === undefined) return expected
  return { tensors: Object.fromEntries(initialAdapters(charter, [span]).map((name) => [name, expected.tensors[name]!])), files: {} }
}

/** Checks the files of a model directory, and its tensors of these blocks, against the charter, byte by byte. Throws UsageError. */
export async function checkDirectory (
  path: string,
  charter: Charter,
  span: Span,
  onEvent: (event: CheckEvent) => void,
  signal: AbortSignal
): Promise<void> {
  const directory = await openModelDirectory(path)
  const { tensors, files } = charter.model
  const names = tensorsOfSpan(charter, span).filter((name) => Object.hasOwn(tensors, name))
  const different = (name: string): UsageError =>
    new UsageError(
      `${path} is not the model of the charter: ${name} is missing or differs`,
      'name a directory of the same version of the model, or leave out --model to fetch the blocks'
    )
  for (const name of Object.keys(files)) {
    const found = await digest(createReadStream(join(path, name), { signal })).catch((error: unknown) => {
      signal.throwIfAborted()
      throw (error as NodeJS.ErrnoException).code === 'ENOENT' ? different(name) : error
    })
    if (found.sha256 !== files[name]!.sha256) throw different(name)
  }
  const totalBytes = names.reduce((sum, name) => sum + tensors[name]!.bytes, 0)
  let doneBytes = 0
  for (const name of names) {
    if (!directory.has(name) || directory.info(name).bytes !== tensors[name]!.bytes) throw different(name)
    const { sha256 } = await digest(directory.chunks(name, signal), (bytes) => {
      doneBytes += bytes
      onEvent({ type: 'check', totalBytes, doneBytes })
    })
    if (sha256 !== tensors[name]!.sha256) throw different(name)
  }
}
