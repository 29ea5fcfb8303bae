import type { ResultOf } from '../../api/operations.ts'
import { DEFAULT_DELTA, type ExposureFigure, type ReleaseGroupFigure } from '../../api/privacy.ts'
import { command } from '../command.ts'
import { askDaemon } from '../daemon-client.ts'
import { digits, plural, table } from '../format.ts'
import { defaulted, grouped } from '../option.ts'
import { json } from '../shared-options.ts'
import { number } from '../values.ts'

export const privacy = command({
  name: 'privacy',
  operation: 'privacy',
  group: 'Look',
  summary: 'Show what left this client, and what the noise on it is worth',
  details: `Every release is counted before it leaves, in a ledger in the home: by purpose, kind (hidden states, gradients), clip and noise. The same bytes sent again are no release.
Each figure names the unit that it protects: whoever sees all releases can hardly tell the data with this unit from the data with another in its place. A small epsilon says a lot, one of ten and more next to nothing. See docs/privacy.md.`,
  options: {
    ...grouped('Figures', {
      delta: defaulted(
        'NUMBER',
        number({ min: 0, max: 0.5, above: true }),
        String(DEFAULT_DELTA),
        'The probability with which a guarantee may fail'
      )
    }),
    ...grouped('Output', { json })
  },
  examples: [{ command: 'midspan privacy --home a', about: 'the ledger in words' }],
  async run ({ home, json, delta }, { terminal, signal }) {
    const answer = await askDaemon(home, 'privacy', { delta }, signal, terminal)
    if (json) return terminal.json(answer)
    for (const line of protectionLines(answer)) terminal.line(line)
    if (answer.releases.length === 0) return terminal.line('Nothing has left this client since the ledger began')
    const [head = '', ...lines] = table([HEAD, ...answer.releases.map(row)])
    terminal.line(terminal.bold(head))
    for (const line of lines) terminal.line(line)
    terminal.line(`What that is worth, at delta ${answer.delta}:`)
    for (const line of figureLines(answer)) terminal.line(line)
    if (answer.lostEntries > 0)
      terminal.line(`${answer.lostEntries} of the ledger's entries were damaged and are lost: all figures are too low`)
    terminal.line('Not covered:')
    for (const what of answer.notCovered) terminal.line(`- ${what}`)
  }
})

const HEAD = ['FOR', 'WHAT', 'CLIP', 'NOISE', 'RELEASES', 'SEQUENCES', 'ROWS']

const PURPOSES = { train: 'training', evaluate: 'evaluation', generate: 'generation' } as const
const KINDS = { hidden: 'hidden states', gradient: 'gradients' } as const

function row ({ purpose, kind, clip, noise, releases, sequences, rows }: ReleaseGroupFigure): readonly string[] {
  return [PURPOSES[purpose], KINDS[kind], clip === null ? '-' : digits(clip), digits(noise), ...[releases, sequences, rows].map(String)]
}

function protectionLines ({ protection: { hidden, gradient, keepsStream } }: ResultOf<'privacy'>): string[] {
  const of = ({ clip, noise }: typeof hidden): string => clip === null ? 'as they are' : `clipped to ${digits(clip)}, with noise ${digits(noise)}`
  return [
    `From now on hidden states leave ${of(hidden)}, and gradients ${of(gradient)}; the residual stream ${
      keepsStream ? 'stays here' : 'goes through the servers'
    }`
  ]
}

function figureLines ({ releases, purposes, total }: ResultOf<'privacy'>): string[] {
  const rows = new Set(releases.map(({ noise, row }) => `- noise ${digits(noise)}: ${figureText(row)}`))
  return [
    ...rows,
    ...purposes.flatMap(({ purpose, works, worst, everywhere }) => [
      `- ${PURPOSES[purpose]}: ${figureText(worst)}`,
      ...(works > 1 ? [`- ${PURPOSES[purpose]}: ${figureText(everywhere)}`] : [])
    ]),
    `- in all: ${figureText(total)}`
  ]
}

function figureText ({ unit, mu, epsilon, rowsWithoutNoise }: ExposureFigure): string {
  return mu === null || epsilon === null
    ? `no guarantee for ${unit}: ${plural(rowsWithoutNoise, 'row')} without noise`
    : `epsilon ${digits(epsilon)} (mu ${digits(mu)}) for ${unit}`
}
