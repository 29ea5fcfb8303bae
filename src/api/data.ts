import { z } from 'zod'
import { task } from './task.ts'

/** A few rules and paths. */
const MAX_WITHHOLD_CHARACTERS = 10_000

/** Which words are withheld. */
export const withhold = z.string().min(1).max(MAX_WITHHOLD_CHARACTERS).optional()
  .describe('rules for words whose states do not leave: names, numbers, capitals, rare:SHARE or paths of lists, separated by commas')

/** How batches are made of a data file. */
export const dataParameters = z.strictObject({
  /** Files, or directories of files. */
  data: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).readonly()]).describe('paths of files, or of directories of files'),
  /** Which column of the data stands for which field. */
  map: z.record(z.string(), z.string()).optional().describe('the columns that stand for fields, by field'),
  /** What the records are learnt for, where they are not learnt as they are. */
  task: task.optional().describe('the task that the records are made into questions and answers of'),
  /** Goes on where more than half of the records are unusable. */
  skipBadLines: z.boolean().default(false).describe('go on where more than half of the records are unusable'),
  sequences: z.int().min(1).optional().describe('sequences of a batch'),
  maxTokens: z.int().min(2).optional().describe('tokens of a sequence at most'),
  /** Packed unless the model reads prompts in both directions: cut anywhere, a prompt would lack its end. */
  packing: z.enum(['packed', 'padded']).optional().describe(
    'packed: sequences filled with consecutive records; padded: a record a sequence'
  ),
  lossOn: z.enum(['completion', 'all']).default('completion').describe('the tokens that the loss counts'),
  withhold,
  seed: z.int().min(0).default(0).describe('the order of the records')
})

export type DataOptions = z.output<typeof dataParameters>
