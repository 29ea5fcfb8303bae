/** One line of a chart. */
export interface ChartLine {
  readonly name: string
  readonly color: string
  readonly points: ReadonlyArray<{ readonly x: number, readonly y: number, readonly error: number }>
}

export interface Chart {
  readonly title: string
  /** What the horizontal axis shows: a number above 0, whose logarithm is even. */
  readonly xName: string
  readonly lines: readonly ChartLine[]
  /** A level that is drawn from side to side. */
  readonly level: { readonly name: string, readonly y: number }
  /** A place on the horizontal axis that is marked. */
  readonly mark?: { readonly name: string, readonly x: number }
}

const WIDTH = 720
const HEIGHT = 380
const PLOT = { left: 50, right: 530, top: 40, bottom: 320 }
const SHARES: readonly number[] = [0, 0.25, 0.5, 0.75, 1]

/** Draws lines of shares, 0 to 1, with bars of two standard errors, as an SVG element that needs nothing from elsewhere. */
export function lineChart ({ title, xName, lines, level, mark }: Chart): string {
  const all = [...lines.flatMap(({ points }) => points.map(({ x }) => x)), ...mark === undefined ? [] : [mark.x]].filter((x) => x > 0)
  const [low, high] = [Math.log(Math.min(...all)), Math.log(Math.max(...all))]
  const across = (x: number): number => PLOT.left + (high === low ? 0.5 : (Math.log(x) - low) / (high - low)) * (PLOT.right - PLOT.left)
  const up = (y: number): number => PLOT.bottom - Math.max(0, Math.min(1, y)) * (PLOT.bottom - PLOT.top)
  const parts = [
    text(PLOT.left, 20, title, 'font-weight="600"'),
    ...SHARES.flatMap((share) => [
      line(PLOT.left, up(share), PLOT.right, up(share), 'stroke="currentColor" stroke-opacity="0.15"'),
      text(PLOT.left - 8, up(share) + 4, `${share * 100}%`, 'text-anchor="end"')
    ]),
    ...[...new Set(lines.flatMap(({ points }) => points.map(({ x }) => x)))].filter((x) => x > 0)
      .map((x) => text(across(x), PLOT.bottom + 18, String(x), 'text-anchor="middle"')),
    text((PLOT.left + PLOT.right) / 2, PLOT.bottom + 40, xName, 'text-anchor="middle"'),
    line(PLOT.left, up(level.y), PLOT.right, up(level.y), 'stroke="currentColor" stroke-dasharray="6 4"'),
    ...mark === undefined
      ? []
      : [
        line(across(mark.x), PLOT.top, across(mark.x), PLOT.bottom, 'stroke="currentColor" stroke-dasharray="2 3"'),
        text(across(mark.x), PLOT.top - 6, mark.name, 'text-anchor="middle"')
      ],
    ...lines.flatMap(({ color, points }) => {
      const shown = points.filter(({ x }) => x > 0)
      const way = shown.map(({ x, y }) => `${place(across(x))},${place(up(y))}`).join(' ')
      return [
        `<polyline points="${way}" fill="none" stroke="${color}" stroke-width="2"/>`,
        ...shown.map(({ x, y, error }) => line(across(x), up(y - 2 * error), across(x), up(y + 2 * error), `stroke="${color}"`)),
        ...shown.map(({ x, y }) => `<circle cx="${place(across(x))}" cy="${place(up(y))}" r="3" fill="${color}"/>`)
      ]
    }),
    ...[...lines.map(({ name, color }) => ({ name, style: `stroke="${color}" stroke-width="2"` })), {
      name: level.name, style: 'stroke="currentColor" stroke-dasharray="6 4"'
    }].flatMap(({ name, style }, i) => [
      line(PLOT.right + 16, PLOT.top + 20 * i, PLOT.right + 40, PLOT.top + 20 * i, style),
      text(PLOT.right + 46, PLOT.top + 20 * i + 4, name)
    ])
  ]
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escaped(title)}" font-size="12" fill="currentColor">${
    parts.join('')
  }</svg>`
}

/** Writes text for HTML. */
export function escaped (text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

function line (x1: number, y1: number, x2: number, y2: number, style: string): string {
  return `<line x1="${place(x1)}" y1="${place(y1)}" x2="${place(x2)}" y2="${place(y2)}" ${style}/>`
}

function text (x: number, y: number, words: string, style = ''): string {
  return `<text x="${place(x)}" y="${place(y)}" ${style}>${escaped(words)}</text>`
}

function place (value: number): string {
  return value.toFixed(1)
}
