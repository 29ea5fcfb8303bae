import { permutation } from '../random.ts'
import { checkUsable, examplesOf, type DatasetOptions, type Example } from '../text/dataset.ts'
import { FoundLines, UnreadFields, type BadLine, type Place } from '../text/found-lines.ts'
import { readEach, recordReader, type RecordReader } from '../text/read-records.ts'
import { fieldsOf, type DataRecord, type Refused } from '../text/records.ts'
import type { Tokenizer } from '../text/tokenizer.ts'
import { answered, questionOf, type Question } from './question.ts'
import type { ResolvedTask } from './resolved-task.ts'

/** Where is written what records a task needs. */
const SEE = 'docs/tasks.md for what the task needs of a record'

/** A record to evaluate, as tokens. */
export interface EncodedQuestion extends Place {
  /** Counts the records of the data from 1, those that cannot be used included. */
  readonly record: number
  /** The right answers; none where the loss of the record is measured. */
  readonly references: readonly string[]
  /** Of a text that is summarised, the text itself. */
  readonly source?: string
  /** The prompt that an answer is generated after. */
  readonly prompt?: Int32Array
  /** Tokens that all sequences begin with, none of which the loss counts. */
  readonly prefix: Int32Array
  /** What follows the prefix: a possible answer each, or what the loss of the record is measured on. */
  readonly sequences: readonly EncodedSequence[]
}

export interface EncodedSequence extends Omit<Example, 'notice'> {
  /** The answer that the sequence ends with, where it is one of several. */
  readonly answer?: string
}

export interface Questions {
  readonly questions: readonly EncodedQuestion[]
  /** The labels that were compared, where the task is to classify. */
  readonly labels?: readonly string[]
  /** Those among them that no record has. */
  readonly unseenLabels?: readonly string[]
  readonly records: number
  readonly badLineCount: number
  readonly badLines: readonly BadLine[]
  readonly noticeCount: number
  readonly notices: readonly BadLine[]
}

export interface QuestionOptions extends Pick<DatasetOptions, 'vocabularySize' | 'columns' | 'skipBadLines' | 'fault' | 'lossOn'> {
  /** Records at most; with more, as many are drawn by the seed. */
  readonly limit?: number
  /** Leaves out the records up to this number, which were asked before. */
  readonly after?: number
  readonly seed: string
  /** Tokens of a sequence at most. */
  readonly maxTokens: number
}

/**
 * Reads the records of data files as questions of a task, in their order. Records that cannot be asked are counted with their reasons.
 * Throws DatasetError when no record is usable, or when more than half are not and `skipBadLines` is not set.
 */
export async function readQuestions (
  paths: readonly string[],
  tokenizer: Tokenizer,
  task: ResolvedTask,
  options: QuestionOptions
): Promise<Questions> {
  const [badLines, notices] = [new FoundLines(), new FoundLines()]
  const { found, records } = await usableRecords(paths, tokenizer, task, options, badLines)
  const labels = task.kind === 'classify' ? task.labels ?? labelsIn(found) : undefined
  const encoder = new QuestionEncoder(tokenizer, task, labels, options)
  const questions: EncodedQuestion[] = []
  const unreadFields = new UnreadFields()
  const { after = 0 } = options
  const wanted = drawn(found, options)
  const left = wanted.filter(({ record }) => record > after)
  for (const { place, record, read } of left) {
    const encoded = 'kind' in read ? encoder.record(read) : encoder.question(read)
    if ('reason' in encoded) {
      badLines.add(place, encoded.reason)
      continue
    }
    const { notices: remarks = [], ...question } = encoded
    for (const remark of remarks) notices.add(place, remark)
    if ('kind' in read) unreadFields.add(place, read.unread)
    questions.push({ ...place, record, ...question })
  }
  unreadFields.tell(notices)
  checkUsable(paths, { records, badLines, used: questions.length + wanted.length - left.length }, options, SEE)
  return {
    questions,
    ...(labels === undefined ? {} : { labels, unseenLabels: unseenIn(wanted, labels) }),
    records,
    badLineCount: badLines.count,
    badLines: badLines.lines,
    noticeCount: notices.count,
    notices: notices.lines
  }
}

/** Returns how records of a task become what is learnt of them; undefined where they are learnt as they are. */
export function taskReader (
  task: ResolvedTask,
  { chatInstructions, columns }: Parameters<typeof recordReader>[0]
): RecordReader<DataRecord> | undefined {
  if (task.by === 'loss') return undefined
  return asked(columns, (fields) => {
    const question = questionOf(task, fields)
    return 'reason' in question ? question : answered(question, question.references[0]!, chatInstructions)
  })
}

interface Usable {
  readonly place: Place
  readonly record: number
  readonly read: Question | DataRecord
}

async function usableRecords (
  paths: readonly string[],
  tokenizer: Tokenizer,
  task: ResolvedTask,
  { columns }: QuestionOptions,
  badLines: FoundLines
): Promise<{ readonly found: readonly Usable[], readonly records: number }> {
  const reader: RecordReader<Question | DataRecord> = task.by === 'loss'
    ? recordReader({ chatInstructions: tokenizer.hasChatTemplate, columns })
    : asked(columns, (fields) => questionOf(task, fields))
  const found: Usable[] = []
  let records = 0
  for await (const { line, file, ...each } of readEach(paths, reader)) {
    records++
    const place = { line, ...(file === undefined ? {} : { file }) }
    if ('reason' in each) badLines.add(place, each.reason)
    else found.push({ place, record: records, read: each.record })
  }
  return { found, records }
}

function asked<Read> (columns: QuestionOptions['columns'], read: (fields: Readonly<Record<string, unknown>>) => Read | Refused): RecordReader<Read> {
  return {
    ofValue: (given) => {
      const fields = fieldsOf(given, columns)
      return 'reason' in fields ? { reason: String(fields.reason) } : read(fields.value)
    },
    ofText: () => ({ reason: 'is plain text, and a task needs fields' })
  }
}

/** Draws as many records as are wanted, and keeps their order. */
function drawn (found: readonly Usable[], { limit = Infinity, seed }: QuestionOptions): readonly Usable[] {
  if (found.length <= limit) return found
  return Array.from(permutation(found.length, `${seed}/questions`).slice(0, limit).sort(), (i) => found[i]!)
}

function labelsIn (found: readonly Usable[]): readonly string[] {
  return [...new Set(found.flatMap(({ read }) => 'references' in read ? read.references : []))].sort()
}

function unseenIn (found: readonly Usable[], labels: readonly string[]): readonly string[] {
  const present = new Set(labelsIn(found))
  return labels.filter((label) => !present.has(label))
}

type Encoded = Omit<EncodedQuestion, 'record' | 'line' | 'file'> & { readonly notices?: readonly string[] }

/** Makes tokens of questions. */
class QuestionEncoder {
  readonly #tokenizer: Tokenizer
  readonly #task: ResolvedTask
  readonly #labels: readonly string[] | undefined
  readonly #options: QuestionOptions

  constructor (tokenizer: Tokenizer, task: ResolvedTask, labels: readonly string[] | undefined, options: QuestionOptions) {
    this.#tokenizer = tokenizer
    this.#task = task
    this.#labels = labels
    this.#options = options
  }

  /** Encodes a record whose loss is measured. */
  record (record: DataRecord): Encoded | Refused {
    const { maxTokens, ...options } = this.#options
    const { found, bad, notices } = examplesOf(record, this.#tokenizer, { ...options, maxLength: maxTokens + 1 })
    if (found.length === 0) return { reason: bad ?? 'has nothing to measure' }
    return { references: [], prefix: new Int32Array(), sequences: found.map(({ ids, lossMask }) => ({ ids, lossMask })), notices }
  }

  question (question: Question): Encoded | Refused {
    const { references, source } = question
    if (this.#task.by === 'generation') {
      const right = this.#answer(question, references[0]!)
      if ('reason' in right) return right
      const prompt = this.#prompt(right)
      return { references, prompt, prefix: new Int32Array(), sequences: [], ...(this.#task.kind === 'summarize' ? { source } : {}) }
    }
    const sequences: EncodedSequence[] = []
    for (const answer of this.#labels ?? question.choices ?? []) {
      const example = this.#answer(question, answer)
      if ('reason' in example) return example
      sequences.push({ answer, ...example })
    }
    return { references, ...withoutPrefix(sequences) }
  }

  /** Encodes a question with one of its answers. Throws nothing: returns a reason where it does not fit. */
  #answer (question: Question, answer: string): Omit<Example, 'notice'> | Refused {
    const { maxTokens, ...options } = this.#options
    const record = answered(question, answer, this.#tokenizer.hasChatTemplate)
    if ('reason' in record) return record
    const { found: [example], bad } = examplesOf(record, this.#tokenizer, { ...options, lossOn: 'completion' })
    if (example === undefined) return { reason: bad ?? 'has nothing to answer' }
    const { ids, lossMask } = example
    const length = lossMask.lastIndexOf(1) + 1
    // The last token is a target only.
    if (length > maxTokens + 1)
      return { reason: `has ${length} tokens with the answer ${JSON.stringify(answer.slice(0, 40))}, and a sequence holds ${maxTokens + 1}` }
    return { ids: ids.subarray(0, length), lossMask: lossMask.subarray(0, length) }
  }

  /** Returns the tokens before the answer of an example. */
  #prompt ({ ids, lossMask }: Omit<Example, 'notice'>): Int32Array {
    return ids.slice(0, lossMask.indexOf(1))
  }
}

/** Takes out of some sequences what all of them begin with, up to the first token that the loss counts. */
function withoutPrefix (sequences: readonly EncodedSequence[]): Pick<EncodedQuestion, 'prefix' | 'sequences'> {
  const [first] = sequences
  if (first === undefined) throw new Error('a question has at least one answer to choose from')
  // Of the prefix the last token is needed beside what follows, to predict it.
  const counted = Math.min(...sequences.map(({ lossMask }) => lossMask.indexOf(1)))
  let length = 0
  while (length < counted && sequences.every(({ ids }) => ids[length] === first.ids[length])) length++
  return {
    prefix: first.ids.slice(0, length),
    sequences: sequences.map(({ ids, lossMask, ...rest }) => ({ ...rest, ids: ids.slice(length), lossMask: lossMask.slice(length) }))
  }
}
