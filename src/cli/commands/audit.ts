import { join } from 'node:path'
import { sweepAxes } from '../../api/audit-sweep.ts'
import { MAX_AUDIT_ROUNDS, MAX_AUDIT_TOKENS } from '../../api/audit.ts'
import { UsageError } from '../../errors.ts'
import { makeDirectories, replaceFile } from '../../model/checkpoint/atomic.ts'
import { command } from '../command.ts'
import { callDaemon } from '../daemon-client.ts'
import { defaulted, grouped, optional, repeated } from '../option.ts'
import { clientNoise, dataOptions, fieldMap, json, withheldWords } from '../shared-options.ts'
import { choice, duration, integer, number, path } from '../values.ts'
import { auditPage, sweepPage } from '../views/audit-page.ts'
import type { Audit } from '../views/audit-tables.ts'
import { AuditView } from '../views/audit-view.ts'
import type { Sweep } from '../views/sweep-tables.ts'

export const audit = command({
  name: 'audit',
  operation: 'audit',
  otherOperation: { option: 'sweep', name: 'auditSweep' },
  withoutReader: 'stops',
  group: 'Look',
  summary: 'Attack what your settings let leave of your text, and show what it tells beside what it buys',
  details: `Hidden states of your text are released as training would release them, and attacked on this machine: nothing leaves it, and no server is asked. The attack knows the words before each token and this client's blocks, and decides by what is exact for Gaussian noise: by the row of a token alone no server can be right more often, but by knowing such text better than the prior does.
Beside that stand losses of trainings that are tried here: of this client alone, with the middle skipped, and, with --model, without protection and as the settings are. Protection that costs more than the servers bring is of no use.
With --withhold the withheld words are guessed from those that are sent, by the prior: with --model unless --prior is given, the whole model.
The audit checks itself, and where a check fails there is no report. See docs/privacy.md.`,
  options: {
    ...grouped('Data', {
      ...dataOptions,
      packing: optional(
        'HOW',
        choice('packed', 'padded'),
        'packed: sequences filled with consecutive records; padded: a record a sequence',
        'packed where the model allows it'
      ),
      sequences: optional('COUNT', integer({ min: 1 }), 'Sequences of each round that is tried', 'as many as the charter allows a client')
    }),
    ...grouped('Attack', {
      tokens: defaulted('COUNT', integer({ min: 1, max: MAX_AUDIT_TOKENS }), '600', 'Tokens to attack, at most'),
      prior: optional(
        'PATH',
        path,
        'What an attacker knows of such text: the directory of a language model with the same tokenizer, or a file of public text',
        'n-grams of sample texts that come with Midspan'
      )
    }),
    ...grouped('Losses', {
      rounds: defaulted('COUNT', integer({ min: 0, max: MAX_AUDIT_ROUNDS }), '60', 'Rounds of each training that is tried; 0 measures no losses'),
      model: optional('DIR', path, 'The whole model, for the losses that need the blocks of the servers'),
      evalData: repeated('PATH', path, 'Data that is held out, on which the losses are measured', 'every eighth record')
    }),
    ...grouped('Sweep', {
      sweep: optional(
        'AXES',
        axes,
        'Try settings that differ in noise, withhold, partition, or several separated by commas: what each lets leak, and its loss. Takes --model'
      ),
      budget: defaulted('DURATION', duration({ max: '24h' }), '20m', 'When a sweep begins no further setting; it says what it left out'),
      maxLeak: optional('SHARE', number({ min: 0, max: 1 }), 'Recommend the setting with the least loss that leaks no more: 0.5 is half of what the text tells')
    }),
    ...grouped('Privacy', { ...clientNoise, withhold: withheldWords }),
    ...grouped('Output', {
      out: optional('DIR', path, 'Write the report there: audit.json, and audit.html with curves, which needs no network'),
      json
    })
  },
  examples: [
    { command: 'midspan audit --data notes.jsonl', about: 'what the settings tell of the text' },
    {
      command: 'midspan audit --data notes.jsonl --model llama/ --prior llama/ --out report/',
      about: 'beside what they cost, with the strongest prior at hand, as a page'
    },
    { command: 'midspan audit --data notes.jsonl --noise 0.8 --rounds 0', about: 'another noise, without losses' },
    {
      command: 'midspan audit --data notes.jsonl --withhold names,numbers --model llama/',
      about: 'what can be guessed of withheld words, by the whole model'
    },
    {
      command: 'midspan audit --data notes.jsonl --model llama/ --sweep withhold,noise --budget 20m --max-leak 0.5',
      about: 'the setting with the least loss that lets at most half of what the text tells leak'
    }
  ],
  async run ({ home, json, debug: _debug, config: _config, map, out, evalData, sweep, budget, maxLeak, ...rest }, { terminal, signal }) {
    if (sweep === undefined && maxLeak !== undefined) throw new UsageError('--max-leak is for a sweep', 'give --sweep withhold, noise or partition')
    if (out !== undefined) await prepare(out)
    const parameters = { ...rest, map: fieldMap(map), ...evalData.length === 0 ? {} : { evalData } }
    const view = new AuditView(terminal, json)
    const events = sweep === undefined
      ? callDaemon(home, 'audit', parameters, signal)
      : callDaemon(home, 'auditSweep', { ...parameters, axes: sweep, budgetMs: budget, ...maxLeak === undefined ? {} : { maxLeak } }, signal)
    try {
      for await (const event of events) {
        if (event.type === 'result' && out !== undefined) await writeReport(out, event, 'attacks' in event ? auditPage(event) : sweepPage(event))
        view.show(event)
      }
      if (out !== undefined) terminal.note(`Wrote ${join(out, 'audit.json')} and ${join(out, 'audit.html')}`)
    } finally {
      view.end()
    }
  }
})

/** Parses axes of a sweep, separated by commas. Throws UsageError. */
function axes (text: string): Array<typeof sweepAxes[number]> {
  const parse = choice(...sweepAxes)
  return [...new Set(text.split(',').map((part) => parse(part.trim())))]
}

/** Makes the directory of a report before the work is done. Throws UsageError for what is no directory. */
async function prepare (out: string): Promise<void> {
  await makeDirectories(out).catch((error: unknown) => {
    throw new UsageError(`${out} cannot be a directory: ${(error as Error).message}`, 'give another with --out', error)
  })
}

/** Writes what an audit or a sweep found for its owner alone: it says how well the text can be guessed. */
async function writeReport (out: string, { type: _, ...report }: Audit | Sweep, page: string): Promise<void> {
  const write = async (name: string, text: string): Promise<void> => {
    await replaceFile(join(out, name), async (handle) => { await handle.writeFile(text) }, { mode: 0o600 })
  }
  await write('audit.json', `${JSON.stringify(report, undefined, 2)}\n`)
  await write('audit.html', page)
}
