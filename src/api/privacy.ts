import { z } from 'zod'
import { count } from './fields.ts'
import { operation } from './operation.ts'

/** The probability with which a guarantee may fail where none is given: far below one in as many records as a client has. */
export const DEFAULT_DELTA = 1e-5

const scale = z.number().min(0)

const protection = z.object({
  clip: z.number().nullable().describe('the L2 norm of a row at most; null where rows are not clipped'),
  noise: scale.describe("the expected norm of a row's noise over the clip")
})

const exposure = z.object({
  unit: z.string().describe('what the figure protects: the data with one of these, and with another in its place, are hard to tell apart'),
  mu: z.number().nullable().describe('of Gaussian differential privacy; null where rows left without noise, and there is no guarantee'),
  epsilon: z.number().nullable().describe('at the delta of the answer; null where there is no guarantee'),
  rowsWithoutNoise: count.describe('rows of the unit that left without noise')
})

export type ExposureFigure = z.output<typeof exposure>

const group = protection.extend({
  purpose: z.enum(['train', 'evaluate', 'generate']),
  kind: z.enum(['hidden', 'gradient']).describe('hidden states on the way up, or gradients'),
  releases: count.describe('messages'),
  sequences: count,
  rows: count.describe('rows, one a token'),
  row: exposure.describe('one of these rows, in one release')
})

export type ReleaseGroupFigure = z.output<typeof group>

export const privacy = operation({
  about: 'Tells what left this client, and what the noise on it is worth',
  parameters: z.strictObject({
    delta: z.number().gt(0).lt(1).default(DEFAULT_DELTA).describe('the probability with which a guarantee may fail')
  }),
  progress: {},
  result: z.object({
    hidden: count.describe('coordinates of a row'),
    delta: z.number(),
    protection: z.object({
      hidden: protection,
      gradient: protection,
      keepsStream: z.boolean().describe('whether the residual stream stays here, so that only what the middle adds is of released hidden states')
    }).describe('what protects the next releases'),
    releases: z.array(group).readonly().describe('what left, by purpose, kind and protection; the same bytes sent again are no release'),
    purposes: z.array(z.object({
      purpose: z.enum(['train', 'evaluate', 'generate']),
      works: count.describe('training runs, evaluations, or texts'),
      worst: exposure,
      everywhere: exposure
    })).readonly(),
    total: exposure,
    lostEntries: count.describe('entries that were lost to damage of the file: the figures are too low where there are any'),
    notCovered: z.array(z.string()).readonly().describe('what the figures do not cover')
  })
})
