import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import type { EvaluateEvent } from '../events.ts'
import { bytes, plural, seconds } from '../format.ts'
import { grouped, mandatory, optional } from '../option.ts'
import { json } from '../shared-options.ts'
import { integer, path } from '../values.ts'
import { ProgressLine } from '../views/progress-line.ts'

export const evaluate = command({
  name: 'evaluate',
  group: 'Work',
  summary: 'Measure the loss on text that was held out',
  details: 'The model runs across the network with the adapters as they are. Nothing is learned, and the text stays here.',
  options: {
    ...grouped('Data', {
      data: mandatory('FILE', path, 'JSONL or plain text, as for train'),
      maxTokens: optional('COUNT', integer({ min: 2 }), 'Tokens of a sequence at most', "the charter's limit"),
      sequences: optional('COUNT', integer({ min: 1 }), 'Sequences sent at once', 'as many as the charter allows a client'),
      limit: optional('COUNT', integer({ min: 1 }), 'Sequences in all', 'the whole file')
    }),
    ...grouped('Output', { json })
  },
  examples: [{ command: 'midspan evaluate --data heldout.jsonl', about: 'loss and perplexity over a file' }],
  async run ({ home, json, data, maxTokens, sequences, limit }, { terminal, signal }) {
    const progress = new ProgressLine(terminal)
    try {
      for await (const event of callDaemon<EvaluateEvent>(home, 'evaluate', { data, maxTokens, sequences, limit }, signal)) {
        if (event.type === 'progress') {
          progress.draw(`${plural(event.sequences, 'sequence')}, ${plural(event.tokens, 'token')}`)
          continue
        }
        progress.clear()
        const { type: _type, ...result } = event
        if (json) terminal.json(result)
        else {
          terminal.line(
            `Loss ${result.loss.toFixed(4)}, perplexity ${result.perplexity.toFixed(2)}, over ${plural(result.tokens, 'token')} of ${
              plural(result.sequences, 'sequence')
            } ` + `(${seconds(result.seconds)}, sent ${bytes(result.sentBytes)}, received ${bytes(result.receivedBytes)})`
          )
        }
      }
    } finally {
      progress.clear()
    }
  }
})
