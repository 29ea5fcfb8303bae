import { MAX_PREVIEW_RECORDS } from '../../api/preview.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import { defaulted, grouped, optional } from '../option.ts'
import { dataOptions, fieldMap, json } from '../shared-options.ts'
import { integer, withhold } from '../values.ts'
import { PreviewView } from '../views/preview-view.ts'

export const data = command({
  name: 'data',
  operation: 'preview',
  withoutReader: 'stops',
  group: 'Look',
  summary: 'Show the tokens of the first records of your data',
  details: `Tokens that the loss counts stand between marks. With --show-withheld the words that rules mark do as well, and the share of all tokens that they are is printed: what would not leave this client if they were withheld.
Nothing leaves, and nothing is trained.`,
  options: {
    ...grouped('Data', {
      ...dataOptions,
      records: defaulted('COUNT', integer({ min: 1, max: MAX_PREVIEW_RECORDS }), '3', 'Records to show')
    }),
    ...grouped('Privacy', {
      showWithheld: optional(
        'RULES',
        withhold,
        'Mark whole words: names, numbers, capitals, rare:SHARE (of all words, such as rare:0.1%), or a FILE of words and /patterns/, a line each; several separated by commas'
      )
    }),
    ...grouped('Output', { json })
  },
  examples: [
    { command: 'midspan data --data notes.jsonl', about: 'what would be learnt of the first three records' },
    { command: 'midspan data --data notes.jsonl --show-withheld names,numbers,people.txt', about: 'which words such rules mark' }
  ],
  async run ({ home, json, debug: _debug, config: _config, map, showWithheld, ...rest }, { terminal, signal }) {
    const view = new PreviewView(terminal, json)
    const parameters = { ...rest, map: fieldMap(map), withhold: showWithheld }
    for await (const event of callDaemon(home, 'preview', parameters, signal)) view.show(event)
  }
})
