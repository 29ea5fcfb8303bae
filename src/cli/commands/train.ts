import { MAX_PREVIEW_RECORDS } from '../../api/preview.ts'
import { MAX_EPOCHS } from '../../api/train.ts'
import { UsageError } from '../../errors.ts'
import { readTask } from '../../model/tasks/task-file.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import { InterruptedError } from '../exit.ts'
import { defaulted, grouped, optional, repeated, toggle } from '../option.ts'
import { clientNoise, dataOptions, fieldMap, json, task, withheldWords } from '../shared-options.ts'
import { choice, integer, list, path, peerId } from '../values.ts'
import { PreviewView } from '../views/preview-view.ts'
import { TrainView } from '../views/train-view.ts'

export const train = command({
  name: 'train',
  operation: 'train',
  otherOperation: { option: 'showData', name: 'preview' },
  withoutReader: 'stops',
  group: 'Work',
  summary: "Fine-tune the federation's adapters on your text",
  details: `Runs rounds with the servers until --rounds are done in total. The text, its labels and the loss stay in this process's daemon.
Stopping at any time loses nothing: run the same command again and it resumes.`,
  options: {
    ...grouped('Data', {
      ...dataOptions,
      task,
      packing: optional(
        'HOW',
        choice('packed', 'padded'),
        'packed: sequences filled with consecutive records; padded: a record a sequence',
        'packed where the model allows it and no task asks'
      ),
      showData: optional(
        'COUNT',
        integer({ min: 1, max: MAX_PREVIEW_RECORDS }),
        'Show the tokens of the first records, with those that the loss counts marked, and train nothing'
      )
    }),
    ...grouped('Training', {
      rounds: optional('COUNT', integer({ min: 1 }), 'Rounds in total, those already done included', '100'),
      epochs: optional('COUNT', integer({ min: 1, max: MAX_EPOCHS }), 'Passes over the data in total, in place of rounds'),
      sequences: optional('COUNT', integer({ min: 1 }), 'Sequences of each round', 'as many as the charter allows a client'),
      rewind: toggle("Go on from the server's rounds where this client has seen more, as after the server's state was restored"),
      fresh: toggle("Start from the federation's initial adapters instead of resuming")
    }),
    ...grouped('Evaluation', {
      evalData: repeated('PATH', path, 'Data that is held out: its loss is measured during the run, and the adapters with the smallest are kept'),
      evalEvery: defaulted('ROUNDS', integer({ min: 1 }), '10', 'Rounds from one such evaluation to the next'),
      patience: optional('COUNT', integer({ min: 1 }), 'Evaluations in a row without a smaller loss after which training ends')
    }),
    ...grouped('Privacy', {
      ...clientNoise,
      withhold: withheldWords,
      contributors: optional(
        'PEERIDS',
        list(peerId),
        'Peers that may be in a secure sum with this client, separated by commas: any other ends the run before anything is contributed',
        'every peer; their ids are shown'
      )
    }),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan train --data notes.jsonl --rounds 100', about: 'a hundred rounds on a file of records' },
    { command: 'midspan train --data notes.jsonl --rounds 200', about: 'a hundred more' },
    { command: 'midspan train --data faq.csv --map prompt=asked --map completion=told', about: 'a table with columns of other names' },
    { command: 'midspan train --data train.csv --task classify --epochs 3', about: 'a classifier of a table with the columns text and label' },
    { command: 'midspan train --data train.jsonl --eval-data heldout.jsonl --patience 3', about: 'until held-out data gains nothing more' },
    { command: 'midspan train --data notes.jsonl --show-data 3', about: 'what would be learnt of the first three records' },
    { command: 'midspan train --data notes.jsonl --json | jq .loss', about: 'events for a program, one JSON object a line' }
  ],
  async run (
    { home, json, debug: _debug, config: _config, map, showData, task: nameOrPath, rounds, epochs, evalData, ...rest },
    { terminal, signal }
  ) {
    const task = nameOrPath === undefined ? undefined : await readTask(nameOrPath)
    const parameters = { ...rest, map: fieldMap(map), task }
    if (showData !== undefined) {
      const {
        rewind: _rewind, fresh: _fresh, noise: _noise, gradientNoise: _gradientNoise, contributors: _contributors, evalEvery: _every,
        patience: _patience, ...data
      } = parameters
      const view = new PreviewView(terminal, json)
      for await (const event of callDaemon(home, 'preview', { ...data, records: showData }, signal)) view.show(event)
      return
    }
    if (rounds !== undefined && epochs !== undefined) throw new UsageError('--rounds and --epochs say how long in two ways', 'give one of them')
    if (rest.patience !== undefined && evalData.length === 0)
      throw new UsageError('--patience needs data that is held out', 'give --eval-data')
    const length = { ...(rounds === undefined ? {} : { rounds }), ...(evalData.length === 0 ? {} : { evalData }), epochs }
    const view = new TrainView(terminal, json)
    try {
      for await (const event of callDaemon(home, 'train', { ...parameters, ...length }, signal)) view.show(event)
    } catch (error) {
      if (signal.reason instanceof InterruptedError) throw signal.reason.withNext('run it again to resume')
      throw error
    } finally {
      view.end()
    }
  }
})
