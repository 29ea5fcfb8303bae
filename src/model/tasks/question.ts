import { instruction, type DataRecord, type Refused } from '../text/records.ts'
import type { ResolvedTask } from './resolved-task.ts'
import { textOf, valueAt, type Template } from './template.ts'

/** A record as a task asks it. */
export interface Question {
  readonly system: string | undefined
  readonly prompt: string
  /** The right answers, at least one. The first is learnt. */
  readonly references: readonly string[]
  /** The answers to choose from, where the record itself has them. */
  readonly choices: readonly string[] | undefined
  /** The longest text that the prompt names: of a summary, what is summarised. */
  readonly source: string
}

type Fields = Readonly<Record<string, unknown>>

/** Makes a record's fields into a question of a task that asks. Returns a reason where a field is missing or of no use. */
export function questionOf (task: ResolvedTask, fields: Fields): Question | Refused {
  const { labels, prompt: template, system: systemTemplate } = task
  if (template === undefined) throw new Error(`tasks of the kind ${task.kind} ask no question`)
  const choices = task.choices.length === 0 ? undefined : choicesOf(task, fields)
  if (choices !== undefined && 'reason' in choices) return choices
  const known = {
    ...fields,
    ...(labels === undefined ? {} : { labels: labels.join(', ') }),
    ...(choices === undefined ? {} : { choices: choices.list.join('\n') })
  }
  const prompt = template.write(known)
  if ('reason' in prompt) return prompt
  const system = systemTemplate?.write(known)
  if (system !== undefined && 'reason' in system) return system
  if (prompt.text === '') return { reason: 'asks nothing: its prompt is empty' }
  const references = referencesOf(task, fields, choices?.list)
  if ('reason' in references) return references
  return {
    system: system?.text,
    prompt: prompt.text,
    references: references.list,
    choices: choices?.list,
    source: longestOf(template, fields)
  }
}

/** Makes a question with one of its answers into a record to learn from, or to take the likelihood of. */
export function answered ({ prompt, system }: Question, answer: string, asChat: boolean): DataRecord | Refused {
  return instruction({ question: prompt, answer, system }, asChat)
}

function longestOf (template: Template, fields: Fields): string {
  const texts = template.needed.map((name) => textOf(valueAt(fields, name.split('.'))) ?? '')
  return texts.reduce((longest, text) => text.length > longest.length ? text : longest, '')
}

function choicesOf ({ choices }: ResolvedTask, fields: Fields): { readonly list: readonly string[] } | Refused {
  const [only] = choices
  const given = choices.length === 1 ? valueAt(fields, only!.split('.')) : choices.map((name) => valueAt(fields, name.split('.')))
  const list = Array.isArray(given) ? given.map(textOf) : []
  if (list.length < 2 || !list.every((each) => each !== undefined && each.trim() !== ''))
    return { reason: `has no two answers to choose from in ${choices.join(', ')}` }
  if (new Set(list).size !== list.length) return { reason: `has the same answer to choose twice in ${choices.join(', ')}` }
  return { list: list as string[] }
}

function referencesOf (
  { kind, answer, words, labels }: ResolvedTask,
  fields: Fields,
  choices: readonly string[] | undefined
): { readonly list: readonly string[] } | Refused {
  const names = answer.filter((each) => valueAt(fields, each.split('.')) !== undefined)
  const [name] = names
  if (name === undefined) return { reason: `has no field ${answer.join(' or ')} with the right answer` }
  const given = valueAt(fields, name.split('.'))
  if (choices !== undefined) {
    const chosen = chosenOf(given, choices)
    return chosen === undefined ? { reason: `has the answer ${JSON.stringify(given)}, which is none of its ${choices.length} choices` } : { list: [chosen] }
  }
  const isLabel = kind === 'classify'
  const list: string[] = []
  for (const each of names) {
    const texts = textsOf(valueAt(fields, each.split('.')))
    if (texts === undefined) return { reason: `has a ${each} that is no text and no list of texts` }
    list.push(...texts.map((text) => isLabel ? words.get(text.trim()) ?? text.trim() : text).filter((text) => !list.includes(text)))
  }
  if (list.length === 0 || list.some((text) => text.trim() === '')) return { reason: `has an empty ${name}: there is nothing to compare an answer with` }
  if (isLabel && list.length > 1) return { reason: `has ${list.length} labels, and classify has one a record` }
  const unknown = list.find((text) => labels?.includes(text) === false)
  if (unknown !== undefined) return { reason: `has the label ${JSON.stringify(unknown)}, which is none of the task's ${labels!.length} labels` }
  return { list }
}

/** Returns the texts of an answer: one, a list, or SQuAD's object with the list `text`. */
function textsOf (given: unknown): readonly string[] | undefined {
  const inner = typeof given === 'object' && given !== null && !Array.isArray(given) ? valueAt(given, ['text']) : given
  if (!Array.isArray(inner)) {
    const text = textOf(inner)
    return text === undefined ? undefined : [text]
  }
  const texts = inner.map(textOf)
  return texts.includes(undefined) ? undefined : [...new Set(texts as string[])]
}

/** Returns the choice that an answer names: by its text, by its letter from A, or by its number from 0. */
function chosenOf (given: unknown, choices: readonly string[]): string | undefined {
  if (typeof given === 'number') return choices[given]
  if (typeof given !== 'string') return undefined
  if (choices.includes(given)) return given
  const text = given.trim()
  if (/^[A-Za-z]$/.test(text)) return choices[text.toUpperCase().charCodeAt(0) - 'A'.charCodeAt(0)]
  return /^\d{1,4}$/.test(text) ? choices[Number(text)] : undefined
}
