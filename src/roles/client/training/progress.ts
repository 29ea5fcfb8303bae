import { z } from 'zod'
import { MidspanError } from '../../../errors.ts'
import { readSnapshot, writeSnapshot } from '../../../model/checkpoint/snapshot.ts'
import type { Partition } from '../../../protocols/charter/schema.ts'
import type { Tensor } from '../../../tensor.ts'

const cursorSchema = z.strictObject({ epoch: z.int().min(0), index: z.int().min(0) })

const runSchema = z.strictObject({
  /** SHA-256 of what the run was asked to do: its data and how batches are made of them. */
  key: z.string(),
  rounds: z.int().min(1),
  done: z.int().min(0),
  cursor: cursorSchema,
  /** Rounds in which the batch at the cursor was released and did not count, one after another. */
  uncounted: z.int().min(0).optional()
})

const metaSchema = z.strictObject({
  federation: z.string(),
  /** Rounds whose step this client has applied. */
  round: z.int().min(0),
  partition: z.strictObject({ inputBlocks: z.int().min(0), outputBlocks: z.int().min(0) }),
  run: runSchema.optional()
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

/** Progress as last written with this partition, or undefined when this client has not trained yet. Throws ProgressError. */
export async function readProgress (
  path: string,
  federation: string,
  { inputBlocks, outputBlocks }: Partition
): Promise<SavedProgress | undefined> {
  const snapshot = await readSnapshot(path)
  if (snapshot === undefined) return undefined
  const meta = metaSchema.safeParse(snapshot.meta)
  if (!meta.success) throw new ProgressError(`${path} is not training progress: ${z.prettifyError(meta.error).replaceAll('\n', ' ')}`)
  if (meta.data.federation !== federation)
    throw new ProgressError(`${path} belongs to another federation`, 'use the home that it came from')
  const { partition } = meta.data
  if (partition.inputBlocks !== inputBlocks || partition.outputBlocks !== outputBlocks) {
    // Blocks that this client did not hold meanwhile would be as they were when it last did.
    throw new ProgressError(
      `this home has trained with ${partition.inputBlocks} input and ${partition.outputBlocks} output blocks, and its settings say ${inputBlocks} and ${outputBlocks}`,
      'set them back, or leave the federation and join it again'
    )
  }
  return { meta: meta.data, tensors: snapshot.tensors, fellBack: snapshot.fallback }
}

export async function writeProgress (path: string, { meta, tensors }: Progress): Promise<void> {
  await writeSnapshot(path, { meta, tensors: new Map(tensors) })
}
