import type { MetricName, Task, TaskKind } from '../../api/task.ts'
import { MidspanError } from '../../errors.ts'
import { Template } from './template.ts'

/** Thrown for a task that cannot be carried out as it is described. */
export class TaskError extends MidspanError {
  constructor (message: string, next?: string) {
    super('E_TASK', message, { next })
  }
}

/** A task with everything that its kind has a default for. */
export interface ResolvedTask {
  readonly kind: TaskKind
  readonly system: Template | undefined
  /** Of `chat` there is none: its records are conversations, or texts, as they are. */
  readonly prompt: Template | undefined
  /** The fields that hold the right answers, as far as a record has them. */
  readonly answer: readonly string[]
  /** The words that an answer is one of, where the task lists them. */
  readonly labels: readonly string[] | undefined
  /** The words for values of the answer's field. */
  readonly words: ReadonlyMap<string, string>
  /** The fields with the answers to choose from: one with a list, or several with one each. */
  readonly choices: readonly string[]
  /** How an answer is found. `loss`: none is, and the loss of the records is measured. */
  readonly by: 'likelihood' | 'generation' | 'loss'
  readonly metrics: readonly MetricName[]
  readonly maxNewTokens: number
}

interface Defaults {
  readonly prompt?: string
  readonly answer: readonly string[]
  readonly choices?: readonly string[]
  readonly by: ResolvedTask['by']
  readonly metrics: readonly MetricName[]
  readonly maxNewTokens: number
}

/** The tasks that need no more than their name, and the defaults of all others. */
const DEFAULTS: Readonly<Record<TaskKind, Defaults>> = {
  classify: { prompt: 'Which label fits this text?\n\n{text}', answer: ['label'], by: 'likelihood', metrics: ['accuracy', 'macro-f1'], maxNewTokens: 32 },
  'multiple-choice': {
    prompt: '{context?}\n\n{question}\n\n{choices}',
    answer: ['answer'],
    choices: ['choices'],
    by: 'likelihood',
    metrics: ['accuracy'],
    maxNewTokens: 64
  },
  extract: {
    prompt: '{text}\n\n{question}', answer: ['answer', 'answers'], by: 'generation', metrics: ['exact-match', 'token-f1'], maxNewTokens: 64
  },
  qa: {
    prompt: '{context?}\n\n{question}', answer: ['answer', 'answers'], by: 'generation', metrics: ['exact-match', 'token-f1'], maxNewTokens: 64
  },
  summarize: {
    prompt: 'Summarize this text.\n\n{text}', answer: ['summary'], by: 'generation', metrics: ['rouge1', 'rouge2', 'rougeL'], maxNewTokens: 128
  },
  chat: { answer: [], by: 'loss', metrics: ['loss', 'perplexity'], maxNewTokens: 1 }
}

/** The metrics that each kind of task can be judged by. */
const METRICS: Readonly<Record<TaskKind, readonly MetricName[]>> = {
  classify: ['accuracy', 'macro-f1'],
  'multiple-choice': ['accuracy'],
  extract: ['exact-match', 'token-f1', 'rouge1', 'rouge2', 'rougeL'],
  qa: ['exact-match', 'token-f1', 'rouge1', 'rouge2', 'rougeL'],
  summarize: ['rouge1', 'rouge2', 'rougeL', 'exact-match', 'token-f1'],
  chat: ['loss', 'perplexity']
}

/** Fills in what a task leaves to its kind. Throws TaskError and TaskTemplateError. */
export function resolveTask (given: Task): ResolvedTask {
  const { kind } = given
  const defaults = DEFAULTS[kind]
  refuseMisplaced(given)
  const by = given.by ?? defaults.by
  if (by === 'likelihood' && kind !== 'classify' && kind !== 'multiple-choice')
    throw new TaskError(`an answer of the kind ${kind} is not one of a list whose likelihoods can be compared`, 'leave out by: likelihood')
  const words = given.labels === undefined || isList(given.labels) ? new Map<string, string>() : new Map(Object.entries(given.labels))
  const labels = given.labels === undefined ? undefined : isList(given.labels) ? given.labels : [...words.values()]
  if (labels !== undefined && new Set(labels).size !== labels.length) throw new TaskError('the task names a label twice', 'name each label once')
  const prompt = templateOf(given.prompt ?? defaults.prompt)
  if (labels === undefined && prompt?.needed.includes('labels') === true)
    throw new TaskError("the task's prompt has the labels in it, and the task does not list them", 'list them under labels')
  return {
    kind,
    system: templateOf(given.system),
    prompt,
    answer: given.answer === undefined ? defaults.answer : asList(given.answer),
    labels,
    words,
    choices: given.choices === undefined ? defaults.choices ?? [] : asList(given.choices),
    by,
    metrics: given.metrics ?? defaults.metrics,
    maxNewTokens: given.maxNewTokens ?? defaults.maxNewTokens
  }
}

/** Throws TaskError for a field that tasks of this kind do not have, and for a metric that does not judge them. */
function refuseMisplaced ({ kind, labels, choices, prompt, system, answer, by, metrics }: Task): void {
  const only = (name: string, value: unknown, kinds: readonly TaskKind[]): void => {
    if (value !== undefined && !kinds.includes(kind))
      throw new TaskError(`a task of the kind ${kind} has no ${name}`, `leave it out, or make it a task of the kind ${kinds.join(' or ')}`)
  }
  const asking = ['classify', 'multiple-choice', 'extract', 'qa', 'summarize'] as const
  only('labels', labels, ['classify'])
  only('choices', choices, ['multiple-choice'])
  for (const [name, value] of Object.entries({ prompt, system, answer, by })) only(name, value, asking)
  const other = metrics?.find((name) => !METRICS[kind].includes(name))
  if (other !== undefined) throw new TaskError(`${other} does not judge a task of the kind ${kind}`, `choose among ${METRICS[kind].join(', ')}`)
}

function templateOf (source: string | undefined): Template | undefined {
  return source === undefined ? undefined : new Template(source)
}

function isList (value: unknown): value is readonly string[] {
  return Array.isArray(value)
}

function asList (value: string | readonly string[]): readonly string[] {
  return typeof value === 'string' ? [value] : value
}
