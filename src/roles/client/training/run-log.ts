import { randomBytes } from 'node:crypto'
import { appendFile, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { makeDirectories } from '../../../model/checkpoint/atomic.ts'
import { readLines } from '../../../model/text/lines.ts'

/** What a run is: written once, when it begins. */
const descriptionSchema = z.object({
  /** Tells the run's work from another's: the same key goes on with the same run. */
  key: z.string(),
  started: z.string(),
  data: z.array(z.string()).readonly()
})

const roundSchema = z.object({
  type: z.literal('round'),
  time: z.string(),
  round: z.int(),
  done: z.int(),
  rounds: z.int(),
  loss: z.number().nullable(),
  learningRate: z.number(),
  tokens: z.int(),
  tokensPerSecond: z.number(),
  inputTokens: z.int(),
  inputTokensPerSecond: z.number(),
  /** Absent in logs of before it was measured. */
  gradientNorm: z.number().nullable().optional(),
  sentBytes: z.int(),
  receivedBytes: z.int(),
  clippedFraction: z.number(),
  leftOut: z.boolean(),
  members: z.int()
})

const evaluationSchema = z.object({
  type: z.literal('evaluation'),
  time: z.string(),
  done: z.int(),
  loss: z.number().nullable(),
  tokens: z.int(),
  best: z.boolean()
})

const entrySchema = z.discriminatedUnion('type', [roundSchema, evaluationSchema])

export type RoundEntry = z.output<typeof roundSchema>
export type EvaluationEntry = z.output<typeof evaluationSchema>
export type RunEntry = RoundEntry | EvaluationEntry

/** A run with what was logged of it. */
export interface LoggedRun extends z.output<typeof descriptionSchema> {
  readonly id: string
  readonly directory: string
  readonly entries: readonly RunEntry[]
}

const DESCRIPTION = 'run.json'
const METRICS = 'metrics.jsonl'

/** The log holds losses, which tell of the data: it is for its owner alone. */
const MODE = { directory: 0o700, file: 0o600 } as const

/** Writes what becomes of a run, as JSON lines, in a directory of its own. */
export class RunLog {
  readonly directory: string
  /** What was logged of the run before. */
  readonly before: readonly RunEntry[]

  private constructor (directory: string, before: readonly RunEntry[]) {
    this.directory = directory
    this.before = before
  }

  /** Goes on with the newest run of this key where it is resumed, and begins another one elsewhere. */
  static async open (
    runs: string,
    { key, data, resumed }: { readonly key: string, readonly data: readonly string[], readonly resumed: boolean }
  ): Promise<RunLog> {
    const found = resumed ? (await readRuns(runs)).findLast((run) => run.key === key) : undefined
    if (found !== undefined) return new RunLog(found.directory, found.entries)
    const started = new Date()
    const directory = join(runs, idOf(started))
    await makeDirectories(directory, MODE.directory)
    await writeFile(join(directory, DESCRIPTION), `${JSON.stringify({ key, started: started.toISOString(), data })}\n`, { mode: MODE.file })
    return new RunLog(directory, [])
  }

  /** Where the adapters of the best evaluation are. */
  get best (): string { return join(this.directory, 'best') }

  async round (entry: Omit<RoundEntry, 'type' | 'time'>): Promise<void> {
    await this.#append({ type: 'round', time: new Date().toISOString(), ...entry })
  }

  async evaluation (entry: Omit<EvaluationEntry, 'type' | 'time'>): Promise<void> {
    await this.#append({ type: 'evaluation', time: new Date().toISOString(), ...entry })
  }

  async #append (entry: RunEntry): Promise<void> {
    await appendFile(join(this.directory, METRICS), `${JSON.stringify(entry)}\n`, { mode: MODE.file })
  }
}

/** Reads the runs that were logged, oldest first. Lines that are not whole, as of a process that was killed, are left out. */
export async function readRuns (runs: string): Promise<readonly LoggedRun[]> {
  const names = await readdir(runs).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  const found = await Promise.all(names.sort().map(async (id) => await readRun(join(runs, id), id)))
  return found.filter((run) => run !== undefined).sort((a, b) => a.started < b.started ? -1 : a.started > b.started ? 1 : 0)
}

async function readRun (directory: string, id: string): Promise<LoggedRun | undefined> {
  const description = descriptionSchema.safeParse(parsed(await readFile(join(directory, DESCRIPTION), 'utf8').catch(() => '')))
  if (!description.success) return undefined
  const entries: RunEntry[] = []
  try {
    for await (const line of readLines(join(directory, METRICS))) {
      const entry = entrySchema.safeParse('text' in line ? parsed(line.text) : undefined)
      if (entry.success) entries.push(entry.data)
    }
  } catch {
    // A run that was stopped before its first round has no lines.
  }
  return { ...description.data, id, directory, entries }
}

function parsed (text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Names a run by its beginning, so that runs stand in their order: 20260131-094501-3f2a. */
function idOf (started: Date): string {
  const [date, time] = started.toISOString().replace(/\..*/, '').replaceAll(/[-:]/g, '').split('T')
  return `${date}-${time}-${randomBytes(2).toString('hex')}`
}
