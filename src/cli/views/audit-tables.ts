import type { AuditFigure, AuditPoint } from '../../api/audit.ts'
import type { ResultOf } from '../../api/operations.ts'
import { digits } from '../format.ts'

export type Audit = ResultOf<'audit'>

/** A table: a head, and rows of as many cells. */
export type Cells = ReadonlyArray<readonly string[]>

/** Lists what was recovered at each noise, with the prior alone as the last row of each attack. */
export function recoveredTable ({ attacks, settings }: Audit): Cells {
  return [
    ['ATTACK', 'RECOVERED', 'WITH THE PRIOR', 'OF HARD TOKENS', 'LEAK'],
    ...attacks.flatMap(({ name, of, guessed, curve }) => [
      ...curve.map((point) => [
        `${name}, noise ${digits(point.noise)}${point.noise === settings[of].noise ? ' (as the settings are)' : ''}`, ...cellsOf(point)
      ]),
      [`${name}, the prior alone`, '-', figureText(guessed), '-', '0%']
    ])
  ]
}

/** Lists what was guessed of withheld words; undefined where none were withheld. */
export function withheldTable ({ withheld }: Audit): Cells | undefined {
  if (withheld === undefined) return undefined
  const { guessed, before, recovered, hard, leak, whole } = withheld
  return [
    ['WITHHELD TOKENS', 'RECOVERED'],
    ['by all words before them, withheld ones known (the prior)', figureText(guessed)],
    ['by the sent words before them', figureText(before)],
    ['by the sent words before and behind them', figureText(recovered)],
    ['the same, of hard tokens', figureText(hard)],
    ['leak of the withheld tokens', figureText(leak)],
    ['leak of the whole text', figureText(whole.leak)]
  ]
}

/** Lists the losses that were measured; undefined where none were. */
export function lossTable ({ losses }: Audit): Cells | undefined {
  if (losses === undefined) return undefined
  const { before, unprotected, deployed, alone } = losses
  const row = (name: string, loss: number | null | undefined): string[][] =>
    loss === undefined ? [] : [[name, loss === null ? 'not a number' : loss.toFixed(3)]]
  return [
    ['LOSS', 'NATS A TOKEN'],
    ...row('before training', before),
    ...row('without protection', unprotected),
    ...row('as the settings are', deployed),
    ...row('this client alone', alone)
  ]
}

/** Lists what the audit checked of itself. */
export function checkTable ({ checks }: Audit): Cells {
  return [['CHECK', 'EXPECTED', 'FOUND'], ...checks.map(({ attack, name, expected, found }) => [`${attack}: ${name}`, expected, found])]
}

/** Says what was attacked. */
export function auditHead ({ tokens, hardTokens, prior, settings, withheld }: Audit): string {
  const { inputBlocks, hidden: { clip, noise }, wire, hiddenSize } = settings
  const besides = withheld === undefined ? '' : `; ${withheld.tokens} more withheld by ${withheld.rules}, ${(100 * withheld.share).toFixed(1)}% of all`
  return `${tokens} tokens attacked, ${hardTokens} of them hard to guess${besides}; ${inputBlocks} blocks before the cut, hidden size ${hiddenSize}, ${
    clip === null ? 'no clip' : `clip ${digits(clip)}`
  }, noise ${digits(noise)}, ${wire}; the prior: ${prior.about}`
}

function cellsOf ({ alone, withPrior, hard, leak }: AuditPoint): string[] {
  return [alone, withPrior, hard, leak].map(figureText)
}

/** Writes a share with its standard error, in percent. */
export function figureText (figure: AuditFigure | null): string {
  return figure === null ? '-' : `${(100 * figure.value).toFixed(1)}% ± ${(100 * figure.error).toFixed(1)}`
}
