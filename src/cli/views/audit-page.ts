import type { AuditAttack, AuditFigure } from '../../api/audit.ts'
import { auditHead, checkTable, lossTable, recoveredTable, withheldTable, type Audit, type Cells } from './audit-tables.ts'
import { frontierChart } from './frontier-chart.ts'
import { escaped, lineChart, type ChartLine } from './line-chart.ts'
import { leftOutTable, sweepLosses, sweepTable, type Sweep } from './sweep-tables.ts'

const STYLE = `:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: left; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #8884; font-variant-numeric: tabular-nums }
svg { max-width: 100%; height: auto }
.meaning { border-left: 4px solid #d55e00; padding-left: 1rem }`

/** Writes the report of an audit as a page that loads nothing from elsewhere, and runs nothing. */
export function auditPage (audit: Audit): string {
  const [losses, withheld] = [lossTable(audit), withheldTable(audit)]
  return page('What leaves, what it tells, what it buys', audit, `<p>${escaped(auditHead(audit))}.</p>
${notes(audit.notices)}
<h2>Recovered</h2>
${table(recoveredTable(audit))}
${audit.attacks.map((attack) => `<p>${escaped(attack.name)}: ${escaped(aboutText(attack))}.</p>\n${chartOf(audit, attack)}`).join('\n')}
<p>Shares with their standard errors; bars are two of them. Hard tokens are those to which the prior gives less than 5 %. The leak is 1 less the
cross-entropy after the attack over that of the prior: the share of the text's information that the release tells.</p>
${withheld === undefined ? '' : `<h2>Withheld words</h2>\n${table(withheld)}\n<p>${escaped(audit.withheld?.about ?? '')}.</p>`}
${losses === undefined ? '' : `<h2>Losses</h2>\n${table(losses)}\n<p>Means over ${audit.losses?.tokens ?? 0} held-out tokens after ${audit.losses?.rounds ?? 0} rounds.</p>`}
<h2>Checks of the audit itself</h2>
${table(checkTable(audit))}`)
}

/** Writes the report of a sweep as such a page. */
export function sweepPage (sweep: Sweep): string {
  return page('What settings let leak, and what they cost', sweep, `${frontierChart(sweep)}
<h2>Settings</h2>
${table(sweepTable(sweep))}
${table(sweepLosses(sweep))}
<p>Means over ${sweep.heldOutTokens} held-out tokens after ${sweep.rounds} rounds; the prior: ${escaped(sweep.prior.about)}. The leak is that of hidden
states or of gradients, whichever tells more; withheld words count by what the words around them tell.</p>
${notes(sweep.notices)}
${sweep.leftOut.length === 0 ? '' : `<h2>Left out</h2>\n${table(leftOutTable(sweep))}`}`)
}

function page (title: string, { meaning }: { readonly meaning: string }, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>Midspan: audit</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escaped(title)}</h1>
<p class="meaning">${escaped(meaning)}</p>
${body}
</body>
</html>
`
}

function notes (notices: readonly string[]): string {
  return notices.map((notice) => `<p>Note: ${escaped(notice)}.</p>`).join('\n')
}

function aboutText ({ about, tokens, candidates, of }: AuditAttack): string {
  return `${about}; ${tokens} ${of === 'hidden' ? 'tokens' : 'labels'}, ${candidates} candidates each`
}

function chartOf ({ settings }: Audit, { name, of, guessed, curve }: AuditAttack): string {
  const { noise } = settings[of]
  const lineOf = (name: string, color: string, of: (point: AuditAttack['curve'][number]) => AuditFigure | null): ChartLine => ({
    name,
    color,
    points: curve.flatMap((point) => {
      const figure = of(point)
      return figure === null ? [] : [{ x: point.noise, y: figure.value, error: figure.error }]
    })
  })
  return lineChart({
    title: `What ${name} recovers, over the noise`,
    xName: of === 'hidden' ? 'noise on hidden states' : 'noise on gradients',
    lines: [
      lineOf('with the prior', '#d55e00', ({ withPrior }) => withPrior),
      lineOf('without it', '#0072b2', ({ alone }) => alone),
      lineOf('of hard tokens', '#cc79a7', ({ hard }) => hard),
      lineOf('leak', '#009e73', ({ leak }) => leak)
    ],
    level: { name: 'the prior alone', y: guessed.value },
    ...noise > 0 ? { mark: { name: 'as set', x: noise } } : {}
  })
}

function table ([head = [], ...rows]: Cells): string {
  const cells = (row: readonly string[], tag: string): string => `<tr>${row.map((cell) => `<${tag}>${escaped(cell)}</${tag}>`).join('')}</tr>`
  return `<table>\n<thead>${cells(head, 'th')}</thead>\n<tbody>\n${rows.map((row) => cells(row, 'td')).join('\n')}\n</tbody>\n</table>`
}
