import { z } from 'zod'
import { audit, auditFigure, MAX_AUDIT_ROUNDS } from './audit.ts'
import { count, finiteOrNull, MAX_TIMER_MS } from './fields.ts'
import { operation } from './operation.ts'

/** What a sweep varies. */
export const sweepAxes = ['noise', 'withhold', 'partition'] as const

const point = z.object({
  inputBlocks: count,
  outputBlocks: count,
  noise: z.number().min(0).describe('on hidden states'),
  gradientNoise: z.number().min(0),
  withhold: z.string().nullable().describe('the rules by which words are withheld; null where none are'),
  withheldShare: z.number().describe('the share of withheld tokens among those that were attacked'),
  recovered: auditFigure.describe('tokens recovered with the prior, withheld ones included'),
  leak: auditFigure.describe("the share of the text's information that leaks: by hidden states, or by gradients where these tell more"),
  loss: finiteOrNull.describe('after training, in nats a held-out token; null where it is no number'),
  isOnFrontier: z.boolean().describe('no other setting has less loss without more leak, or the reverse')
})

export type SweepPoint = z.output<typeof point>

export const auditSweep = operation({
  about: 'Tries settings that the charter allows: what each lets leave of a text, and what it costs; nothing is sent',
  parameters: audit.parameters.extend({
    axes: z.array(z.enum(sweepAxes)).min(1).readonly().describe('what is varied'),
    budgetMs: z.int().min(1).max(MAX_TIMER_MS).default(20 * 60_000).describe('milliseconds after which no further setting is begun'),
    maxLeak: z.number().min(0).max(1).optional().describe('the leak that a recommended setting may have, with two standard errors'),
    rounds: z.int().min(1).max(MAX_AUDIT_ROUNDS).default(60).describe('rounds of each training that is tried')
  }),
  progress: audit.progress,
  result: z.object({
    type: z.literal('result'),
    axes: z.array(z.enum(sweepAxes)).readonly(),
    points: z.array(point).readonly().describe('the settings that were tried'),
    unprotected: finiteOrNull.describe("the loss of training without protection, at the client's own cut"),
    alone: finiteOrNull.describe('the least loss of a client alone, over the cuts that were tried'),
    rounds: count,
    heldOutTokens: count,
    maxLeak: z.number().optional(),
    recommended: count.nullable().describe('the recommended setting by its place among the points; null where there is none'),
    meaning: z.string().describe('what the figures say, in words'),
    leftOut: z.array(z.object({ setting: z.string(), reason: z.string() })).readonly().describe('settings that were not tried'),
    prior: z.object({ kind: z.enum(['ngram', 'model']), about: z.string() }),
    notices: z.array(z.string()).readonly().describe('what limits the figures'),
    seconds: z.number()
  })
})
