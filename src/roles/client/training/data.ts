import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import type { DataOptions } from '../../../api/data.ts'
import type { DataFound } from '../../../api/fields.ts'
import { UsageError } from '../../../errors.ts'
import type { Questions } from '../../../model/tasks/read-questions.ts'
import { Batches, type BatchOptions } from '../../../model/text/batches.ts'
import type { Dataset, FirstRecords } from '../../../model/text/dataset.ts'
import { filesOf } from '../../../model/text/read-records.ts'
import {
  firstRecordsInThread, loadDatasetInThread, readQuestionsInThread, type DatasetTask
} from '../../../model/text/threads/dataset-thread.ts'
import type { Charter } from '../../../protocols/charter/schema.ts'
import { MAX_SEQUENCES } from '../../../protocols/train/constants.ts'
import { charteredModel } from '../../charter-settings.ts'
import { checkWithholdable, describeWithholding, readWithholding } from '../withholding-rules.ts'

/**
 * Examples from a data file as batches within a charter's bounds, encoded by the tokenizer in the model's directory. Where they are
 * measured and not learnt, all of them are there, whatever is withheld of them. Throws DatasetError, TokenizerError and UsageError.
 */
export async function loadBatches (
  options: DataOptions,
  use: 'learn' | 'measure',
  modelPath: string,
  charter: Charter,
  signal: AbortSignal
): Promise<{ dataset: Dataset, batches: Batches, batching: BatchOptions }> {
  const { packing, sequences, maxTokens, reading } = withinCharter(options, charter)
  const model = charteredModel(charter)
  if (options.withhold !== undefined) checkWithholdable(model)
  const withholding = await withheldBy(options)
  const isMeasured = use === 'measure'
  const dataset = await loadDatasetInThread({ dir: modelPath, ...reading, ...withholding, mayMarkNothing: isMeasured }, signal)
  const seed = String(options.seed)
  const batching: BatchOptions = {
    seed, sequences, mode: packing, windowLength: maxTokens, ownLength: model.maxPositions, keepsUnsent: isMeasured
  }
  return { dataset, batches: new Batches(dataset.examples, batching), batching }
}

async function withheldBy ({ withhold }: DataOptions): Promise<Pick<DatasetTask, 'withhold'>> {
  return withhold === undefined ? {} : { withhold: await readWithholding(withhold) }
}

/** The first records of a data file as `loadBatches` would read them. Throws as `loadBatches` does. */
export async function readFirstRecords (
  options: DataOptions,
  wanted: number,
  modelPath: string,
  charter: Charter,
  signal: AbortSignal
): Promise<{ first: FirstRecords, packing: 'packed' | 'padded', maxTokens: number }> {
  const { packing, maxTokens, reading } = withinCharter(options, charter)
  const task = { dir: modelPath, ...reading, first: wanted, ...await withheldBy(options) }
  return { first: await firstRecordsInThread(task, signal), packing, maxTokens }
}

/** Reads a data file as questions of a task within a charter's bounds. Throws DatasetError, TaskError, TokenizerError and UsageError. */
export async function loadQuestions (
  { task, limit, after, ...options }: DataOptions & Required<Pick<DataOptions, 'task'>> & {
    readonly limit?: number | undefined
    readonly after?: number
  },
  modelPath: string,
  charter: Charter,
  signal: AbortSignal
): Promise<{ questions: Questions, maxTokens: number }> {
  const { maxTokens, reading } = withinCharter({ ...options, packing: 'padded' }, charter)
  const { maxLength: _, ...encoding } = reading.options
  const questions = await readQuestionsInThread({
    dir: modelPath,
    ...reading,
    task,
    questions: {
      ...encoding,
      maxTokens,
      seed: String(options.seed),
      ...(limit === undefined ? {} : { limit }),
      ...(after === undefined ? {} : { after })
    }
  }, signal)
  return { questions, maxTokens }
}

interface Reading {
  readonly packing: 'packed' | 'padded'
  /** Sequences of a batch. */
  readonly sequences: number
  /** Tokens of a sequence at most. */
  readonly maxTokens: number
  readonly reading: Pick<DatasetTask, 'config' | 'paths' | 'options' | 'task'>
}

/** Fills in what the options leave to the charter and the model. Throws UsageError for what the charter does not allow. */
function withinCharter (options: DataOptions, charter: Charter): Reading {
  const { training: { maxTokensPerClient }, limits: { maxSequenceTokens } } = charter
  const longest = Math.min(maxSequenceTokens, maxTokensPerClient)
  const { prompts, vocabularySize } = charteredModel(charter)
  // Questions of a task have contexts of their own, as they have where they are asked.
  const asks = options.task !== undefined && options.task.kind !== 'chat'
  const { packing = prompts === undefined && !asks ? 'packed' : 'padded', lossOn, maxTokens = longest } = options
  if (prompts !== undefined && packing === 'packed')
    throw new UsageError(
      'this model reads prompts in both directions, so that its records cannot be packed',
      'leave out --packing, or give --packing padded'
    )
  if (maxTokens > longest)
    throw new UsageError(`sequences of ${maxTokens} tokens are longer than the federation allows`, `give --max-tokens ${longest} or less`)
  const most = Math.min(MAX_SEQUENCES, Math.floor(maxTokensPerClient / maxTokens))
  const { sequences = most } = options
  if (sequences > most)
    throw new UsageError(
      `${sequences} sequences of ${maxTokens} tokens are more than the ${maxTokensPerClient} tokens that the federation allows in a batch`,
      `give --sequences ${most} or less, or a smaller --max-tokens`
    )
  return {
    packing,
    sequences,
    maxTokens,
    reading: {
      ...(prompts === undefined ? {} : { config: charter.model.config }),
      paths: typeof options.data === 'string' ? [options.data] : options.data,
      task: options.task,
      options: {
        lossOn,
        vocabularySize,
        columns: options.map,
        skipBadLines: options.skipBadLines,
        // A record's last token is a target only, so a padded record may have one token more than its sequence.
        ...(packing === 'padded' ? { maxLength: maxTokens + 1 } : {})
      }
    }
  }
}

/** Tells what was found in the data, as the events that report it have it. */
export function foundIn (
  dataset: Pick<Dataset, 'records' | 'badLineCount' | 'badLines' | 'noticeCount' | 'notices'>
): DataFound {
  return {
    recordsRead: dataset.records,
    skipped: dataset.badLineCount,
    skippedLines: dataset.badLines,
    noticed: dataset.noticeCount,
    notices: dataset.notices
  }
}

/** Tells one run's work from another's: SHA-256 of the data and of how batches are made of it, with what is withheld. */
export async function runKey ({ data, withhold, ...options }: DataOptions): Promise<string> {
  const contents = createHash('sha256')
  for (const file of (await Promise.all((typeof data === 'string' ? [data] : data).map(filesOf))).flat())
    for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) contents.update(chunk)
  // A list of words may change under its name.
  const withheld = withhold === undefined ? {} : { withhold: describeWithholding(await readWithholding(withhold)) }
  return createHash('sha256').update(JSON.stringify({ contents: contents.digest('hex'), ...options, ...withheld })).digest('hex')
}
