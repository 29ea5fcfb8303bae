import { appendFile, mkdir, readFile, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import { planSchema, type Plan } from './plan.ts'

/** What the audit of one client of a federation found of what leaves in hidden states, by the oracle with its prior. */
const leakSchema = z.object({
  /** The share of tokens that are recovered, withheld ones included, and its standard error. */
  recovered: z.number(),
  recoveredError: z.number(),
  /** The share of the text's information, and its standard error. */
  leak: z.number(),
  leakError: z.number(),
  /** The share of withheld tokens. */
  withheldShare: z.number(),
  /** Tokens that were attacked. */
  tokens: z.int()
})

export type Leak = z.output<typeof leakSchema>

/** One model on the questions of one data set, record by record. */
export const cellSchema = z.object({
  problem: z.string(),
  system: z.string(),
  /** null for the model before any training. */
  seed: z.int().nullable(),
  /** Of each question, what the answer is worth by the data set's metric, 0 to 1. */
  scores: z.array(z.number()),
  /** Of each question, the loss of the right answer, summed over its tokens, in nats. */
  losses: z.array(z.number()),
  /** Of each question, the tokens of the right answer. */
  tokens: z.array(z.int()),
  trainingSeconds: z.number(),
  judgingSeconds: z.number(),
  /** The mean loss of a token in the last round; null without training. */
  trainingLoss: z.number().nullable(),
  /** Of the federation: bytes between one client and the server, both ways, in all. */
  wireBytes: z.number().optional(),
  /** Of the federation: its distance to centralised training over the way that this went, where it was trained in the same run. */
  fromCentralised: z.number().optional(),
  /** Of a protected federation: what it let leak, and, where it had noise, what the same states would have without. */
  leak: leakSchema.optional(),
  unprotectedLeak: leakSchema.optional()
})

export type Cell = z.output<typeof cellSchema>

/** Names a cell. */
export type CellKey = Pick<Cell, 'problem' | 'system' | 'seed'>

/** The finished cells of a plan, in a file with a line each: what is killed goes on after the last whole line. */
export class CellFile {
  readonly plan: Plan
  readonly cells: Cell[]
  readonly #path: string

  private constructor (path: string, plan: Plan, cells: readonly Cell[]) {
    this.#path = path
    this.plan = plan
    this.cells = [...cells]
  }

  /** Reads a file as far as its lines are whole; undefined where there is none, or nothing in it. Throws for a file of something else. */
  static async read (path: string): Promise<CellFile | undefined> {
    const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return ''
      throw error
    })
    const [first, ...lines] = text.split('\n').slice(0, -1)
    if (first === undefined) return undefined
    const plan = planSchema.safeParse(parsed(first))
    if (!plan.success) throw new Error(`${path} holds no cells of this benchmark: name another file with --cells`)
    const cells = lines.flatMap((line) => {
      const cell = cellSchema.safeParse(parsed(line))
      return cell.success ? [cell.data] : []
    })
    const file = new CellFile(path, plan.data, cells)
    // A torn last line would be joined with the next cell.
    if (!text.endsWith('\n')) await file.#write()
    return file
  }

  /** Goes on with a larger plan, of which the present one is a part. */
  async extend (plan: Plan): Promise<CellFile> {
    const file = new CellFile(this.#path, plan, this.cells)
    await file.#write()
    return file
  }

  /** Begins a file, in place of what was there. */
  static async begin (path: string, plan: Plan): Promise<CellFile> {
    await mkdir(dirname(path), { recursive: true })
    const file = new CellFile(path, plan, [])
    await file.#write()
    return file
  }

  find ({ problem, system, seed }: CellKey): Cell | undefined {
    return this.cells.find((cell) => isDeepStrictEqual([cell.problem, cell.system, cell.seed], [problem, system, seed]))
  }

  async add (cell: Cell): Promise<void> {
    this.cells.push(cell)
    await appendFile(this.#path, `${JSON.stringify(cell)}\n`)
  }

  async #write (): Promise<void> {
    await writeFile(this.#path, [this.plan, ...this.cells].map((line) => `${JSON.stringify(line)}\n`).join(''))
  }
}

function parsed (line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}
