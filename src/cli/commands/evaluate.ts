import { open, readFile, type FileHandle } from 'node:fs/promises'
import type { EventOf, ResultOf } from '../../api/operations.ts'
import { UsageError } from '../../errors.ts'
import {
  asPrediction, checkOverwritten, comparePredictions, readPredictions, wholePredictions, type PredictionLine
} from '../../model/tasks/comparison.ts'
import { judge } from '../../model/tasks/scoring.ts'
import { readTask } from '../../model/tasks/task-file.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import { bytes, lossText, plural, seconds } from '../format.ts'
import { defaulted, grouped, optional, repeated, toggle } from '../option.ts'
import { dataOptions, fieldMap, json, task, timeout, withheldWords } from '../shared-options.ts'
import type { Terminal } from '../terminal.ts'
import { choice, integer, path } from '../values.ts'
import { foundText } from '../views/data-found.ts'
import { ProgressLine } from '../views/progress-line.ts'
import { comparisonText, TaskView, type BaseComparison } from '../views/task-view.ts'

export const evaluate = command({
  name: 'evaluate',
  operation: 'evaluate',
  otherOperation: { option: 'task', name: 'evaluateTask' },
  withoutReader: 'stops',
  group: 'Work',
  summary: 'Measure the loss, or how well a task is done, on text that was held out',
  details: `The model runs across the network with the adapters as they are. Nothing is learned, and the text stays here.
With --task the records are asked as docs/tasks.md says, and the answers are judged by the metrics of their field.`,
  argument: { name: 'SECOND', about: 'the second file of predictions, with --compare', optional: true },
  options: {
    ...grouped('Data', {
      ...dataOptions,
      data: repeated('PATH', path, dataOptions.data.about),
      packing: optional(
        'HOW',
        choice('packed', 'padded'),
        'padded: a record a sequence, with a context of its own; packed: sequences filled with consecutive records',
        'padded'
      ),
      sequences: optional('COUNT', integer({ min: 1 }), 'Sequences sent at once', 'as many as the charter allows a client'),
      limit: optional('COUNT', integer({ min: 1 }), 'Sequences in all, at most; with --task records, drawn by the seed', 'all of the data')
    }),
    ...grouped('Task', {
      task,
      texts: defaulted('COUNT', integer({ min: 1, max: 64 }), '4', 'Answers that are generated at once'),
      predictions: optional('FILE', path, 'Write the answer to each record, with the right ones, as JSON lines'),
      resume: toggle('Go on after the records that the file of predictions has'),
      base: optional('FILE', path, 'Predictions made before training: those of the base model, to compare with'),
      compare: optional('FILE', path, 'Compare two files of predictions, record by record, and evaluate nothing')
    }),
    ...grouped('Privacy', { withhold: withheldWords }),
    ...grouped('Network', { timeout }),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan evaluate --data heldout.jsonl', about: 'loss and perplexity over a file' },
    { command: 'midspan evaluate --data heldout.csv --task classify --predictions after.jsonl', about: 'accuracy of a classifier' },
    { command: 'midspan evaluate --data heldout.csv --task classify --predictions after.jsonl --resume', about: 'the rest of it' },
    { command: 'midspan evaluate --data heldout.csv --task classify --base before.jsonl', about: 'what training has brought' },
    { command: 'midspan evaluate --compare before.jsonl after.jsonl', about: 'whether training has made a difference' }
  ],
  async run (
    {
      home, json, timeout, debug: _debug, config: _config, map, task: nameOrPath, texts, predictions, resume, base, compare: first, ...rest
    },
    { terminal, signal, argument }
  ) {
    if (first !== undefined) return await showComparison(first, argument, { terminal, json, seed: rest.seed ?? 0 })
    if (argument !== '') throw new UsageError(`'${argument}' is not expected`, 'give data with --data')
    if (rest.data.length === 0) throw new UsageError('--data is missing', 'give --data PATH, or set MIDSPAN_DATA')
    const parameters = { ...rest, map: fieldMap(map), timeoutMs: timeout }
    if (nameOrPath === undefined) {
      if (predictions !== undefined) throw new UsageError('there are no predictions without a task', 'give --task')
      if (resume) throw new UsageError('only a task is resumed', 'give --task and --predictions')
      if (base !== undefined) throw new UsageError('--base has answers, and without a task there are none to compare with', 'give --task')
      return await measureLoss(callDaemon(home, 'evaluate', parameters, signal), terminal, json)
    }
    const { packing, sequences, withhold, ...asked } = parameters
    if (withhold !== undefined)
      throw new UsageError('--withhold is of no use with --task yet', 'leave one of them out')
    if (packing !== undefined || sequences !== undefined)
      throw new UsageError('--packing and --sequences are of no use with --task', 'leave them out: a task asks one record at a time')
    if (resume && predictions === undefined) throw new UsageError('there is nothing to go on with', 'give --predictions')
    if (predictions !== undefined) await checkOverwritten(predictions)
    const before = resume ? wholePredictions(await readFile(predictions!, 'utf8').catch(() => '')) : []
    const given = { ...asked, texts, after: before.at(-1)?.record ?? 0, task: await readTask(nameOrPath) }
    // Read before anything is computed: a file that cannot be used is told at once.
    const baseLines = base === undefined ? undefined : { path: base, lines: await readPredictions(base) }
    const events = callDaemon(home, 'evaluateTask', given, signal)
    const seed = String(rest.seed ?? 0)
    await showTask(withEarlier(events, before, seed), new TaskView(terminal, json), { path: predictions, before, base: baseLines, seed })
  }
})

async function measureLoss (events: AsyncIterable<EventOf<'evaluate'>>, terminal: Terminal, json: boolean): Promise<void> {
  const progress = new ProgressLine(terminal)
  try {
    for await (const event of events) {
      switch (event.type) {
        case 'start':
          for (const line of foundText(event)) terminal.note(line)
          break
        case 'waiting':
          progress.wait(event.reason)
          break
        case 'progress':
          progress.draw(`Evaluated ${plural(event.sequences, 'sequence')}, ${plural(event.tokens, 'token')}`)
          break
        case 'result': {
          progress.clear()
          const { type: _type, ...result } = event
          if (json) terminal.json(result)
          else terminal.line(describe(event))
        }
      }
    }
  } finally {
    progress.clear()
  }
}

type TaskEvent = EventOf<'evaluateTask'>

/** Judges the records that were answered before together with those that are answered now. */
async function * withEarlier (
  events: AsyncIterable<TaskEvent>,
  before: readonly PredictionLine[],
  seed: string
): AsyncGenerator<TaskEvent> {
  const [first] = before
  const lines: PredictionLine[] = [...before]
  for await (const event of events) {
    if (event.type === 'prediction') {
      const { type: _, ...line } = event
      lines.push(line)
    }
    if (first === undefined || event.type !== 'result') yield event
    else yield { ...event, ...judge(event.kind, first.metrics, lines.map(asPrediction), seed) }
  }
}

interface PredictionsFile {
  readonly path: string | undefined
  /** What it begins with. */
  readonly before: readonly PredictionLine[]
  /** What the answers are compared with. */
  readonly base: { readonly path: string, readonly lines: readonly PredictionLine[] } | undefined
  readonly seed: string
}

/** Shows the evaluation of a task, and writes the predictions to a file as they come. Throws TaskError where the base has other records. */
async function showTask (events: AsyncIterable<TaskEvent>, view: TaskView, { path, before, base, seed }: PredictionsFile): Promise<void> {
  let file: FileHandle | undefined
  const lines: PredictionLine[] = [...before]
  try {
    for await (const event of events) {
      if (event.type === 'prediction') {
        const { type: _type, ...line } = event
        lines.push(line)
        if (path !== undefined) {
          if (file === undefined) {
            // It holds what the records hold: it is for its owner alone.
            file = await open(path, 'w', 0o600)
            for (const earlier of before) await file.write(`${JSON.stringify(earlier)}\n`)
          }
          await file.write(`${JSON.stringify(line)}\n`)
        }
      }
      if (event.type !== 'result' || base === undefined) {
        view.show(event)
        continue
      }
      let comparison: BaseComparison['comparison']
      try {
        comparison = comparePredictions(base.lines, lines, seed)
      } catch (error) {
        // What was computed is worth something without the comparison.
        view.show(event)
        throw error
      }
      view.showResult(event, { path: base.path, comparison })
    }
  } finally {
    view.end()
    await file?.close()
  }
}

interface Showing {
  readonly terminal: Terminal
  readonly json: boolean
  readonly seed: number
}

async function showComparison (first: string, second: string, { terminal, json, seed }: Showing): Promise<void> {
  if (second === '') throw new UsageError('there is no second file to compare with', 'give two: --compare FIRST SECOND')
  const other = path(second)
  const comparison = comparePredictions(await readPredictions(first), await readPredictions(other), String(seed))
  if (json) terminal.json(comparison)
  else for (const line of comparisonText(comparison, first, other)) terminal.line(line)
}

function describe (result: ResultOf<'evaluate'>): string {
  const { loss, perplexity, tokens, sequences } = result
  return `Loss ${lossText(loss)}, perplexity ${perplexity?.toFixed(2) ?? 'not a number'}, over ${plural(tokens, 'token')} of ${
    plural(sequences, 'sequence')
  } (${seconds(result.seconds)}, sent ${bytes(result.sentBytes)}, received ${bytes(result.receivedBytes)})`
}
