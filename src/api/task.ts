import { z } from 'zod'

/** Characters of a template at most: the longest instructions that people write have a tenth of it. */
export const MAX_TEMPLATE_CHARACTERS = 64 * 1024

/** Labels that a task may list: each is scored for each record. */
export const MAX_LABELS = 1000

/** Tokens that an answer may be generated of. */
export const MAX_ANSWER_TOKENS = 8192

/** What an answer can be judged by. */
export const metricNames = [
  'accuracy', 'macro-f1', 'exact-match', 'token-f1', 'rouge1', 'rouge2', 'rougeL', 'loss', 'perplexity'
] as const

export type MetricName = typeof metricNames[number]

export const taskKinds = ['classify', 'multiple-choice', 'extract', 'qa', 'summarize', 'chat'] as const

export type TaskKind = typeof taskKinds[number]

const template = z.string().min(1).max(MAX_TEMPLATE_CHARACTERS)
const field = z.string().min(1)
const label = z.string().min(1)

/** How a record becomes a question, what of it is learnt, and how an answer is judged. What is left out is as the kind has it. */
export const task = z.strictObject({
  kind: z.enum(taskKinds).describe('what the task is a kind of: it has a default for everything else'),
  system: template.optional().describe('a template of what the model is told before the question'),
  prompt: template.optional().describe('a template of the question: {field} is a field of the record, {field?} one that may be absent'),
  answer: z.union([field, z.array(field).min(1).readonly()]).optional()
    .describe('the field with the right answer, or with several; or several fields'),
  labels: z.union([z.array(label).min(2).max(MAX_LABELS).readonly(), z.record(z.string(), label)]).optional()
    .describe('classify: the labels, or the words for the values that the data has; unless given, those that occur in the data'),
  choices: z.union([field, z.array(field).min(2).max(MAX_LABELS).readonly()]).optional()
    .describe('multiple-choice: the field with the list of answers to choose from, or the fields with one each'),
  by: z.enum(['likelihood', 'generation']).optional()
    .describe('likelihood: the likeliest of the given answers is taken; generation: the answer is generated, and compared'),
  metrics: z.array(z.enum(metricNames)).min(1).readonly().optional(),
  maxNewTokens: z.int().min(1).max(MAX_ANSWER_TOKENS).optional().describe('tokens of a generated answer at most')
})

export type Task = z.output<typeof task>
