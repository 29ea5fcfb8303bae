import { UsageError } from '../../errors.ts'
import type { Model } from '../families/family.ts'
import { IGNORED_TARGET, type Batch } from '../text/batches.ts'
import { encodeRecord, loadDataset, type Example } from '../text/dataset.ts'
import type { Tokenizer } from '../text/tokenizer.ts'
import { SAMPLE_TEXTS } from './sample-text.ts'

/** Sequences of token ids with the targets of their positions, `IGNORED_TARGET` where none counts. */
export type Sample = Pick<Batch, 'ids' | 'targets'>

/** Sequences of a sample, at most: with their tokens, as little as tells losses apart, since each noise is one more run of the model. */
const SAMPLE_SEQUENCES = 8

/** Tokens of a sequence, at most. */
const SEQUENCE_TOKENS = 64

/** Encodes the built-in texts with a model's own tokenizer. */
export function builtInSample (tokenizer: Tokenizer, model: Model): Sample {
  const examples = SAMPLE_TEXTS.map((text) => encodeRecord({ kind: 'text', text }, tokenizer, 'all'))
  return sampleOf(examples.filter((example) => 'ids' in example), model, 'the built-in sample')
}

/** Reads a sample from a data file, its records taken at even distances. Throws DatasetError, and UsageError for a file with no text. */
export async function readSample (path: string, tokenizer: Tokenizer, model: Model, signal: AbortSignal): Promise<Sample> {
  const { examples } = await loadDataset(path, tokenizer, { lossOn: 'all', maxLength: tokensOf(model) + 1 }, signal)
  const step = Math.max(1, examples.length / SAMPLE_SEQUENCES)
  const count = Math.min(SAMPLE_SEQUENCES, examples.length)
  return sampleOf(Array.from({ length: count }, (_, i) => examples[Math.floor(i * step)]!), model, path)
}

function sampleOf (examples: readonly Example[], model: Model, name: string): Sample {
  const cut = examples.map(({ ids, lossMask }) => {
    const end = Math.min(tokensOf(model), ids.length - 1)
    return {
      ids: [...ids.subarray(0, end)],
      targets: Array.from({ length: end }, (_, i) => lossMask[i + 1] === 1 ? ids[i + 1]! : IGNORED_TARGET)
    }
  }).filter(({ targets }) => targets.some((target) => target !== IGNORED_TARGET))
  if (cut.length === 0) throw new UsageError(`${name} holds no text that the model could be measured on`, 'give --calibrate a file of text')
  return { ids: cut.map(({ ids }) => ids), targets: cut.map(({ targets }) => targets) }
}

function tokensOf ({ maxPositions }: Model): number {
  return Math.min(SEQUENCE_TOKENS, maxPositions)
}
