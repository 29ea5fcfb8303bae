import { availableParallelism, cpus } from 'node:os'
import { basename } from 'node:path'
import { z } from 'zod'
import { metricNames } from '../../../src/api/task.ts'
import { cellSchema, type Cell } from './cells.ts'
import { planSchema, type Plan } from './plan.ts'
import type { Problem } from './problems.ts'
import { splitText } from './split.ts'

/** All that the document is rendered from. */
export const resultSchema = z.object({
  command: z.string(),
  machine: z.object({ processor: z.string(), cores: z.int(), node: z.string() }),
  plan: planSchema,
  problems: z.array(z.object({ name: z.string(), about: z.string(), metric: z.enum(metricNames), split: z.string(), field: z.string() })),
  /** Data sets that were asked for and are not on the machine. */
  absent: z.array(z.string()),
  /** Whether all cells of the plan are there. */
  complete: z.boolean(),
  cells: z.array(cellSchema)
})

export type Result = z.output<typeof resultSchema>

/** Digits of a loss that are kept. */
const DIGITS = 5

export interface ResultParts {
  readonly command: string
  readonly plan: Plan
  readonly problems: readonly Problem[]
  readonly absent: readonly string[]
  readonly complete: boolean
  readonly cells: readonly Cell[]
}

/** Puts together what the document is rendered from. No text of a data set is in it. */
export function resultOf ({ command, plan, problems, absent, complete, cells }: ResultParts): Result {
  return {
    command,
    machine: { processor: cpus()[0]?.model.trim() ?? 'unknown', cores: availableParallelism(), node: process.version },
    plan: { ...plan, model: basename(plan.model) },
    problems: problems.map(({ name, about, metric, split, field }) => ({ name, about, metric, split: splitText(split), field })),
    absent: [...absent],
    complete,
    cells: cells.map((cell) => ({ ...cell, scores: cell.scores.map(rounded), losses: cell.losses.map(rounded) }))
  }
}

function rounded (value: number): number {
  return Number(value.toFixed(DIGITS))
}
