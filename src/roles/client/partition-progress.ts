import { MidspanError } from '../../errors.ts'
import type { Charter, Partition } from '../../protocols/charter/schema.ts'
import { aggregationOf } from '../training/aggregation/factory.ts'
import { ownBlocks, progressPath, readProgress, writeProgress, type Progress, type ProgressMeta } from './training/progress.ts'

/** Thrown when a change of partition would lose what a client has learnt. */
export class PartitionLossError extends MidspanError {
  constructor (blocks: readonly number[], what: string) {
    const [which, them] = blocks.length === 1 ? ['block', 'it'] : ['blocks', 'them']
    super('E_PARTITION_LOSS', `what this client has learnt in ${which} ${blocks.join(', ')}${what} is lost when it gives ${them} up`, {
      next: 'export it first if it is to be kept, and give --discard'
    })
  }
}

/**
 * Throws PartitionLossError where a client has trained blocks that it gives up, unless `discard` says that this is meant. With shared ends
 * nothing is lost: the federation has the same adapters.
 */
export function checkLosses (charter: Charter, progress: ProgressMeta | undefined, partition: Partition, discard: boolean): void {
  const { mode } = charter.ends
  if (discard || progress === undefined || aggregationOf(charter).client.sharesAdapters) return
  const kept = ownBlocks(charter, partition)
  const lost = [...ownBlocks(charter, progress.partition)].filter((block) => !kept.has(block) && progress.lacking?.includes(block) !== true)
  if (lost.length > 0) throw new PartitionLossError(lost, mode === 'average' ? ' since the last average' : '')
}

/** Says in one line how training goes on otherwise than if a client had had its new partition all along; null where it does not. */
export function noteOnChange (
  charter: Charter,
  progress: ProgressMeta | undefined,
  before: Partition,
  partition: Partition
): string | null {
  if (progress === undefined || aggregationOf(charter).client.sharesAdapters) return null
  const held = ownBlocks(charter, before)
  if ([...ownBlocks(charter, partition)].every((block) => held.has(block))) return null
  return "the blocks that came go on from the middle's adapters, and their optimiser's moments begin anew, since ends are not shared here"
}

/** Reads the progress of a client whose daemon does not run; undefined where it has not trained. Throws ProgressError. */
export async function readClientProgress (
  state: string,
  charterHash: Uint8Array,
  charter: Charter,
  partition: Partition
): Promise<Progress | undefined> {
  return await readProgress(progressPath(state), Buffer.from(charterHash).toString('hex'), charter, partition)
}

/** Notes in the progress of a client whose daemon does not run what `AdapterState.announce` does. */
export async function announcePartition (state: string, { meta, tensors }: Progress, next: Partition): Promise<void> {
  const progress = { meta: { ...meta, next: { ...next } }, tensors }
  await writeProgress(progressPath(state), progress)
  await writeProgress(progressPath(state), progress)
}
