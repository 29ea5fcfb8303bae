import { readFile } from 'node:fs/promises'
import { parse } from 'csv-parse/sync'
import type { MetricName, Task } from '../../../src/api/task.ts'
import { permutation } from '../../../src/model/random.ts'
import { dataPath, hasData } from '../../../test/helpers/data.ts'
import type { Grouped, Split } from './split.ts'

/** A record of a task. */
export interface Item extends Grouped {
  readonly fields: Readonly<Record<string, unknown>>
}

/** A data set as a task, with what clients learn and what nobody learns. */
export interface Problem {
  readonly name: string
  /** What it is, and which of the papers' tasks it stands for. */
  readonly about: string
  readonly task: Task
  /** What is compared; the loss of the right answers is measured beside it. */
  readonly metric: MetricName
  readonly split: Split
  /** What a record is spread by. */
  readonly field: string
  readonly maxTokens: number
  readonly train: readonly Item[]
  readonly test: readonly Item[]
}

/** Four a client where there are two. A question is scored once for each, which is what its time goes to. */
const INTENTS = 8
/** Characters of a dialogue at most: longer ones cost minutes and say no more about federating. */
const DREAM_CHARACTERS = 250
const DIALOGUE_CHARACTERS = 350
/** Of a sequence, far more than the longest of these records has. */
const MAX_TOKENS = 384

/** The data sets by name, each read when it is asked for, and where its files are. */
const SOURCES: Readonly<Record<string, { readonly folder: string, readonly read: () => Promise<Problem> }>> = {
  banking77: { folder: 'banking77', read: banking },
  dream: { folder: 'dream', read: dream },
  dialogsum: { folder: 'dialogsum', read: dialogues }
}

export const problemNames: readonly string[] = Object.keys(SOURCES)

/** Reads the data sets of these names; says by name which of them are not here. Throws RangeError for an unknown name. */
export async function readProblems (
  names: readonly string[]
): Promise<{ readonly problems: readonly Problem[], readonly absent: readonly string[] }> {
  const sources = names.map((name) => {
    const source = SOURCES[name]
    if (source === undefined) throw new RangeError(`there is no data set ${name}: choose among ${problemNames.join(', ')}`)
    return { name, ...source }
  })
  const present = sources.filter(({ folder }) => hasData(folder))
  return {
    problems: await Promise.all(present.map(async ({ read }) => await read())),
    absent: sources.filter((source) => !present.includes(source)).map(({ name }) => name)
  }
}

async function banking (): Promise<Problem> {
  const [train, test] = await Promise.all(['train.csv', 'test.csv'].map(async (name) =>
    parse<{ text: string, category: string }>(await readFile(dataPath('banking77', name), 'utf8'), { columns: true })))
  const all = [...new Set(test!.map(({ category }) => category))].sort()
  const chosen = Array.from(permutation(all.length, 'intents').slice(0, INTENTS), (i) => all[i]!)
  const word = (category: string): string => category.replaceAll('_', ' ').toLowerCase()
  const items = (rows: typeof test): Item[] => (rows ?? []).filter(({ category }) => chosen.includes(category))
    .map(({ text, category }) => ({ group: category, fields: { text, label: word(category) } }))
  return {
    name: 'banking77',
    about: `Banking77, ${INTENTS} intents: understanding (SuperGLUE in the papers)`,
    task: { kind: 'classify', system: 'Name the intent.', prompt: '{text}', labels: chosen.map(word) },
    metric: 'accuracy',
    split: { by: 'field' },
    field: 'the intent',
    maxTokens: MAX_TOKENS,
    train: items(train),
    test: items(test)
  }
}

type Dialogue = readonly [
  turns: readonly string[],
  questions: ReadonlyArray<{ readonly question: string, readonly choice: readonly string[], readonly answer: string }>
]

async function dream (): Promise<Problem> {
  const [train, test] = await Promise.all(['train.json', 'test.json'].map(async (name) =>
    JSON.parse(await readFile(dataPath('dream', name), 'utf8')) as Dialogue[]))
  const items = (dialogues: readonly Dialogue[] | undefined): Item[] => (dialogues ?? []).flatMap(([turns, questions]) => {
    const context = turns.join('\n')
    if (context.length > DREAM_CHARACTERS) return []
    const usable = questions.filter(({ choice, answer }) => new Set(choice).size === choice.length && choice.includes(answer))
    return usable.map(({ question, choice, answer }) => ({
      group: question.split(/[\s']/, 1)[0]!.toLowerCase(),
      fields: { context, question, choices: choice, answer }
    }))
  })
  return {
    name: 'dream',
    about: 'DREAM, three answers to choose from: conversational reading (CoQA in the papers)',
    task: { kind: 'multiple-choice', system: 'Answer briefly.', prompt: '{context}\n\n{question}' },
    metric: 'accuracy',
    split: { by: 'dirichlet', alpha: 0.3 },
    field: "the question's first word",
    maxTokens: MAX_TOKENS,
    train: items(train),
    test: items(test)
  }
}

interface Summarised extends Readonly<Partial<Record<'summary' | 'summary1' | 'summary2' | 'summary3', string>>> {
  readonly dialogue: string
}

async function dialogues (): Promise<Problem> {
  const [train, test] = await Promise.all(['dev.jsonl', 'test.jsonl'].map(async (name) =>
    (await readFile(dataPath('dialogsum', name), 'utf8')).trim().split('\n').map((line) => JSON.parse(line) as Summarised)))
  const items = (rows: readonly Summarised[] | undefined): Item[] =>
    (rows ?? []).filter(({ dialogue }) => dialogue.length <= DIALOGUE_CHARACTERS).map((row) => ({
      group: '',
      fields: { text: row.dialogue, summary: [row.summary, row.summary1, row.summary2, row.summary3].filter((text) => text !== undefined) }
    }))
  return {
    name: 'dialogsum',
    about: 'DialogSum, short dialogues: summaries (CNN/DailyMail and XSum in the papers)',
    task: { kind: 'summarize', system: 'Summarize.', prompt: '{text}', metrics: ['rougeL'], maxNewTokens: 40 },
    metric: 'rougeL',
    split: { by: 'iid' },
    field: '',
    maxTokens: MAX_TOKENS,
    train: items(train),
    test: items(test)
  }
}
