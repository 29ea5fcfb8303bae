import { escaped } from './line-chart.ts'
import type { Sweep } from './sweep-tables.ts'

const WIDTH = 720
const HEIGHT = 380
const PLOT = { left: 60, right: 690, top: 40, bottom: 320 }
const SHARES: readonly number[] = [0, 0.25, 0.5, 0.75, 1]

/** Room above and below the losses, as a share of what they span. */
const MARGIN = 0.08

/** Draws the settings of a sweep by their leak and their loss, with the frontier and the client alone, as an SVG element. */
export function frontierChart ({ points, alone, maxLeak, recommended }: Sweep): string {
  const losses = [...points.map(({ loss }) => loss), alone].filter((loss) => loss !== null)
  const [least, most] = [Math.min(...losses), Math.max(...losses)]
  const room = Math.max(most - least, 0.01) * MARGIN
  const across = (leak: number): string => (PLOT.left + Math.max(0, Math.min(1, leak)) * (PLOT.right - PLOT.left)).toFixed(1)
  const up = (loss: number): string =>
    (PLOT.bottom - (loss - least + room) / (most - least + 2 * room) * (PLOT.bottom - PLOT.top)).toFixed(1)
  const shown = points.flatMap(({ loss, leak, isOnFrontier }, i) => loss === null ? [] : [{ loss, leak: leak.value, isOnFrontier, i }])
  const way = shown.filter(({ isOnFrontier }) => isOnFrontier).sort((a, b) => a.leak - b.leak)
  const text = (x: string | number, y: string | number, words: string, style = ''): string => `<text x="${x}" y="${y}" ${style}>${escaped(words)}</text>`
  const parts = [
    text(PLOT.left, 20, 'Loss over leak: each number is a setting of the table', 'font-weight="600"'),
    ...SHARES.flatMap((share) => [
      `<line x1="${across(share)}" y1="${PLOT.top}" x2="${across(share)}" y2="${PLOT.bottom}" stroke="currentColor" stroke-opacity="0.15"/>`,
      text(across(share), PLOT.bottom + 18, `${100 * share}%`, 'text-anchor="middle"')
    ]),
    text((PLOT.left + PLOT.right) / 2, PLOT.bottom + 40, "share of the text's information that leaks", 'text-anchor="middle"'),
    ...[least, most].map((loss) => text(PLOT.left - 8, up(loss), loss.toFixed(2), 'text-anchor="end"')),
    ...alone === null
      ? []
      : [
        `<line x1="${PLOT.left}" y1="${up(alone)}" x2="${PLOT.right}" y2="${up(alone)}" stroke="currentColor" stroke-dasharray="6 4"/>`,
        text(PLOT.right, Number(up(alone)) - 6, 'this client alone', 'text-anchor="end"')
      ],
    ...maxLeak === undefined
      ? []
      : [
        `<line x1="${across(maxLeak)}" y1="${PLOT.top}" x2="${across(maxLeak)}" y2="${PLOT.bottom}" stroke="currentColor" stroke-dasharray="2 3"/>`,
        text(across(maxLeak), PLOT.top - 6, 'most that may leak', 'text-anchor="middle"')
      ],
    `<polyline points="${way.map(({ leak, loss }) => `${across(leak)},${up(loss)}`).join(' ')}" fill="none" stroke="#0072b2" stroke-width="2"/>`,
    ...shown.flatMap(({ leak, loss, isOnFrontier, i }) => [
      `<circle cx="${across(leak)}" cy="${up(loss)}" r="${i === recommended ? 6 : 3}" fill="${isOnFrontier ? '#0072b2' : '#d55e00'}"/>`,
      text((Number(across(leak)) + 7).toFixed(1), (Number(up(loss)) - 5).toFixed(1), String(i + 1))
    ])
  ]
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="Loss over leak" font-size="12" fill="currentColor">${
    parts.join('')
  }</svg>`
}
