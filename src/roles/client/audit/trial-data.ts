import type { DataOptions } from '../../../api/data.ts'
import { Batches, type BatchOptions } from '../../../model/text/batches.ts'
import type { Example } from '../../../model/text/dataset.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { loadBatches } from '../training/data.ts'
import { splitExamples, withoutWithholding, type TrialData, type TrialText } from './trials.ts'

/** Data as it was loaded. */
export interface LoadedData {
  readonly examples: readonly Example[]
  readonly batches: Batches
  readonly batching: BatchOptions
}

export interface TrialDataOptions {
  readonly data: DataOptions
  /** Paths of data that is held out; every eighth record where there is none. */
  readonly evalData: string | readonly string[] | undefined
  readonly modelPath: string
  readonly charter: Charter
}

/** Chooses what trials learn and are measured on; undefined where there are too few records to hold any out. */
export async function trialDataOf (options: TrialDataOptions, loaded: LoadedData, signal: AbortSignal): Promise<TrialData | undefined> {
  const deployed = await textOf(options, loaded, signal)
  if (deployed === undefined) return undefined
  if (options.data.withhold === undefined) return { deployed, plain: deployed }
  const { examples, batching } = loaded
  const bare = withoutWithholding(examples)
  const { withhold: _, ...data } = options.data
  const plain = await textOf({ ...options, data }, { examples: bare, batching, batches: new Batches(bare, batching) }, signal)
  return plain === undefined ? undefined : { deployed, plain }
}

async function textOf (
  { data, evalData, modelPath, charter }: TrialDataOptions,
  { examples, batches, batching }: LoadedData,
  signal: AbortSignal
): Promise<TrialText | undefined> {
  if (evalData === undefined) return splitExamples(examples, batching)
  const held = { ...data, data: evalData, packing: 'padded' as const, sequences: undefined }
  return { trained: batches, heldOut: (await loadBatches(held, 'measure', modelPath, charter, signal)).batches }
}
