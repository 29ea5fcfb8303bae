import { join } from 'node:path'
import { z } from 'zod'
import { MidspanError } from '../../../errors.ts'
import { readSnapshot, writeSnapshot } from '../../../model/checkpoint/snapshot.ts'
import type { Charter, Partition } from '../../../protocols/charter/schema.ts'
import type { Tensor } from '../../../tensor.ts'
import { clientSpans } from '../../charter-settings.ts'
import { blockOf } from '../../training/aggregation/strategy.ts'

/** Marks a step in a client's snapshot that was taken but that the federation may not have counted. */
export const PENDING_PREFIX = 'pending/'

const cursorSchema = z.strictObject({ epoch: z.int().min(0), index: z.int().min(0) })

const runSchema = z.strictObject({
  /** SHA-256 of what the run was asked to do: its data and how batches are made of them. */
  key: z.string(),
  rounds: z.int().min(1),
  done: z.int().min(0),
  cursor: cursorSchema,
  /** Rounds in which the batch at the cursor was released and did not count, one after another. */
  uncounted: z.int().min(0).optional(),
  /** The round in which this client revealed shares of a secure sum with what the batch at the cursor adds. */
  summedRound: z.int().min(0).optional()
})

const partitionSchema = z.strictObject({ inputBlocks: z.int().min(0), outputBlocks: z.int().min(0) })

const metaSchema = z.strictObject({
  federation: z.string(),
  /** Rounds whose step this client has applied. */
  round: z.int().min(0),
  partition: partitionSchema,
  run: runSchema.optional(),
  /**
   * Tokens of the rounds since the last average that counted, and of the round whose step is prepared: what a secure sum is weighted by.
   */
  unaveragedTokens: z.int().min(0).optional(),
  pendingTokens: z.int().min(0).optional(),
  /** Blocks that this client took over from the middle, and whose adapters it has not been told yet. */
  lacking: z.array(z.int().min(0)).optional(),
  /** The partition that a change was to bring. It was brought if the settings say so. */
  next: partitionSchema.optional()
})

export type Cursor = z.infer<typeof cursorSchema>
export type Run = z.infer<typeof runSchema>
export type ProgressMeta = z.infer<typeof metaSchema>

/** Thrown when a home's progress belongs to another federation or cannot be used. */
export class ProgressError extends MidspanError {
  constructor (message: string, next?: string) {
    super('E_STATE', message, { next })
  }
}

/** Where a client stands: its adapters with their moments, its place in the data and the rounds behind it. */
export interface Progress {
  readonly meta: ProgressMeta
  readonly tensors: ReadonlyMap<string, Tensor>
}

/** Progress as it was read. */
export interface SavedProgress extends Progress {
  /** Whether the newest file was damaged or missing, and the one before it was read. */
  readonly fellBack: boolean
}

/** Where a home keeps its training progress. */
export function progressPath (state: string): string {
  return join(state, 'training.safetensors')
}

/**
 * Reads progress as last written, for a client that holds these blocks; undefined when it has not trained yet. Where a change of partition
 * was under way when it was written and the settings have the new one, it is carried over. Throws ProgressError.
 */
export async function readProgress (
  path: string,
  federation: string,
  charter: Charter,
  partition: Partition
): Promise<SavedProgress | undefined> {
  const snapshot = await readSnapshot(path)
  if (snapshot === undefined) return undefined
  const meta = metaSchema.safeParse(snapshot.meta)
  if (!meta.success) throw new ProgressError(`${path} is not training progress: ${z.prettifyError(meta.error).replaceAll('\n', ' ')}`)
  if (meta.data.federation !== federation)
    throw new ProgressError(`${path} belongs to another federation`, 'use the home that it came from')
  const { partition: before, next } = meta.data
  const { inputBlocks, outputBlocks } = partition
  if (!isSamePartition(before, partition) && (next === undefined || !isSamePartition(next, partition))) {
    // Blocks that this client did not hold meanwhile would be as they were when it last did.
    throw new ProgressError(
      `this home has trained with ${before.inputBlocks} input and ${before.outputBlocks} output blocks, and its settings say ${inputBlocks} and ${outputBlocks}`,
      'set them back, and change them with: midspan partition'
    )
  }
  return { ...carriedOver({ meta: meta.data, tensors: snapshot.tensors }, charter, partition), fellBack: snapshot.fallback }
}

export async function writeProgress (path: string, { meta, tensors }: Progress): Promise<void> {
  await writeSnapshot(path, { meta, tensors: new Map(tensors) })
}

export function isSamePartition (a: Partition, b: Partition): boolean {
  return a.inputBlocks === b.inputBlocks && a.outputBlocks === b.outputBlocks
}

/** Returns the blocks that a client with this partition computes itself. */
export function ownBlocks (charter: Charter, partition: Partition): Set<number> {
  const spans = clientSpans(charter, partition)
  return new Set(spans.flatMap(({ first, end }) => Array.from({ length: end - first }, (_, index) => first + index)))
}

/** Returns progress with another partition: what was learnt of blocks that both have, and which of the new blocks it knows nothing of. */
function carriedOver ({ meta, tensors }: Progress, charter: Charter, partition: Partition): Progress {
  const { next: _, lacking: lackingBefore = [], ...place } = meta
  const [before, own] = [ownBlocks(charter, meta.partition), ownBlocks(charter, partition)]
  const lacking = [...own].filter((block) => !before.has(block) || lackingBefore.includes(block))
  const isOwn = (name: string): boolean => own.has(blockOf(name.startsWith(PENDING_PREFIX) ? name.slice(PENDING_PREFIX.length) : name))
  return {
    meta: { ...place, partition: { ...partition }, ...(lacking.length === 0 ? {} : { lacking }) },
    tensors: new Map([...tensors].filter(([name]) => isOwn(name)))
  }
}
