import { init, type CustomSeriesRenderItem, type EChartsCoreOption } from 'echarts'
import type { Result } from './result.ts'
import { summarise, type Row } from './summary.ts'

const PANEL = { width: 330, height: 280 } as const
const MARGIN = { left: 60, top: 50, right: 10, bottom: 80 } as const

/** Colours that people who cannot tell red from green tell apart. Okabe and Ito (2008). */
const COLOURS: Readonly<Record<string, string>> = { base: '#999999', federated: '#0072b2', centralised: '#56b4e9' }
const ALONE = '#e69f00'

/** Half the width of the bar that ends an interval. */
const CAP = 5

/** Draws the metric of each data set as bars with intervals, as SVG. */
export function pictureOf (result: Result): string {
  const { problems, cells } = result
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: Math.max(1, problems.length) * PANEL.width, height: PANEL.height })
  try {
    chart.setOption(optionOf(problems.map(({ name, metric }) => ({ title: `${name}: ${metric}`, rows: summarise(name, cells).rows }))))
    return `${chart.renderToSVGString()}\n`
  } finally {
    chart.dispose()
  }
}

function optionOf (panels: ReadonlyArray<{ readonly title: string, readonly rows: readonly Row[] }>): EChartsCoreOption {
  return {
    animation: false,
    backgroundColor: '#ffffff',
    title: panels.map(({ title }, i) => ({ text: title, left: i * PANEL.width + MARGIN.left, top: 10, textStyle: { fontSize: 14 } })),
    grid: panels.map((_, i) => ({
      left: i * PANEL.width + MARGIN.left,
      top: MARGIN.top,
      width: PANEL.width - MARGIN.left - MARGIN.right,
      height: PANEL.height - MARGIN.top - MARGIN.bottom
    })),
    xAxis: panels.map(({ rows }, i) => (
      { gridIndex: i, type: 'category', data: rows.map(({ system }) => system), axisLabel: { interval: 0, rotate: 40 } })),
    yAxis: panels.map((_, i) => ({ gridIndex: i, type: 'value', min: 0 })),
    series: panels.flatMap(({ rows }, i) => [
      {
        type: 'bar',
        xAxisIndex: i,
        yAxisIndex: i,
        data: rows.map(({ system, score }) => ({ value: score.value, itemStyle: { color: COLOURS[system] ?? ALONE } }))
      },
      {
        type: 'custom',
        xAxisIndex: i,
        yAxisIndex: i,
        z: 3,
        renderItem: drawInterval,
        encode: { x: 0, y: [1, 2] },
        data: rows.map(({ score: { low, high } }, row) => [row, low, high])
      }
    ])
  }
}

const drawInterval: CustomSeriesRenderItem = (_params, api) => {
  const [row, low, high] = [0, 1, 2].map((dimension) => Number(api.value(dimension)))
  const [x = 0, bottom = 0] = api.coord([row!, low!])
  const [, top = 0] = api.coord([row!, high!])
  const style = { stroke: '#000000', lineWidth: 1.5 }
  const line = (x1: number, y1: number, x2: number, y2: number) => ({ type: 'line' as const, shape: { x1, y1, x2, y2 }, style })
  return { type: 'group', children: [line(x, bottom, x, top), line(x - CAP, top, x + CAP, top), line(x - CAP, bottom, x + CAP, bottom)] }
}
