import type { SweepPoint } from '../../api/audit-sweep.ts'
import type { ResultOf } from '../../api/operations.ts'
import { digits } from '../format.ts'
import { figureText, type Cells } from './audit-tables.ts'

export type Sweep = ResultOf<'auditSweep'>

/** Lists the settings that were tried, numbered, with marks for the frontier and for the recommended one. */
export function sweepTable ({ points, recommended }: Sweep): Cells {
  return [
    ['', 'BLOCKS HERE', 'NOISE', 'WITHHELD', 'OF TOKENS', 'LOSS', 'LEAK', 'RECOVERED', ''],
    ...points.map((point, i) => [
      String(i + 1),
      `${point.inputBlocks} + ${point.outputBlocks}`,
      noiseText(point),
      point.withhold ?? 'nothing',
      `${(100 * point.withheldShare).toFixed(1)}%`,
      point.loss === null ? 'not a number' : point.loss.toFixed(3),
      figureText(point.leak),
      figureText(point.recovered),
      i === recommended ? 'recommended' : point.isOnFrontier ? 'frontier' : ''
    ])
  ]
}

/** Lists the losses that settings are compared with. */
export function sweepLosses ({ unprotected, alone }: Sweep): Cells {
  const text = (loss: number | null): string => loss === null ? 'not a number' : loss.toFixed(3)
  return [['LOSS', 'NATS A TOKEN'], ['without protection', text(unprotected)], ['this client alone', text(alone)]]
}

/** Lists the settings that were not tried. */
export function leftOutTable ({ leftOut }: Sweep): Cells {
  return [['LEFT OUT', 'WHY'], ...leftOut.map(({ setting, reason }) => [setting, reason])]
}

function noiseText ({ noise, gradientNoise }: SweepPoint): string {
  return noise === gradientNoise ? digits(noise) : `${digits(noise)}, gradients ${digits(gradientNoise)}`
}
