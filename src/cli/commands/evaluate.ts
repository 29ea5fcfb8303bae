import type { ResultOf } from '../../api/operations.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import { bytes, lossText, plural, seconds } from '../format.ts'
import { grouped, optional } from '../option.ts'
import { dataOptions, fieldMap, json, timeout } from '../shared-options.ts'
import { choice, integer } from '../values.ts'
import { foundText } from '../views/data-found.ts'
import { ProgressLine } from '../views/progress-line.ts'

export const evaluate = command({
  name: 'evaluate',
  operation: 'evaluate',
  withoutReader: 'stops',
  group: 'Work',
  summary: 'Measure the loss on text that was held out',
  details: 'The model runs across the network with the adapters as they are. Nothing is learned, and the text stays here.',
  options: {
    ...grouped('Data', {
      ...dataOptions,
      packing: optional(
        'HOW',
        choice('packed', 'padded'),
        'padded: a record a sequence, with a context of its own; packed: sequences filled with consecutive records',
        'padded'
      ),
      sequences: optional('COUNT', integer({ min: 1 }), 'Sequences sent at once', 'as many as the charter allows a client'),
      limit: optional('COUNT', integer({ min: 1 }), 'Sequences in all, at most', 'all of the data')
    }),
    ...grouped('Network', { timeout }),
    ...grouped('Output', { json })
  },
  examples: [{ command: 'midspan evaluate --data heldout.jsonl', about: 'loss and perplexity over a file' }],
  async run ({ home, json, timeout, debug: _debug, config: _config, map, ...rest }, { terminal, signal }) {
    const progress = new ProgressLine(terminal)
    const parameters = { ...rest, map: fieldMap(map), timeoutMs: timeout }
    try {
      for await (const event of callDaemon(home, 'evaluate', parameters, signal)) {
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
})

function describe (result: ResultOf<'evaluate'>): string {
  const { loss, perplexity, tokens, sequences } = result
  return `Loss ${lossText(loss)}, perplexity ${perplexity?.toFixed(2) ?? 'not a number'}, over ${plural(tokens, 'token')} of ${
    plural(sequences, 'sequence')
  } (${seconds(result.seconds)}, sent ${bytes(result.sentBytes)}, received ${bytes(result.receivedBytes)})`
}
