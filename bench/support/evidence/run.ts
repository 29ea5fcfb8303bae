import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { permutation } from '../../../src/model/random.ts'
import type { Batches } from '../../../src/model/text/batches.ts'
import type { Tensor } from '../../../src/tensor.ts'
import type { Cell, CellFile, CellKey } from './cells.ts'
import { Exam, readBatches, type Judged } from './exam.ts'
import { federate } from './federate.ts'
import { relativeDistance, type OneMachine } from './one-machine.ts'
import type { Plan } from './plan.ts'
import type { Item, Problem } from './problems.ts'
import { protectedSystem, UNPROTECTED, type Protection } from './protections.ts'
import { splitOver } from './split.ts'
import { aloneSystem } from './summary.ts'

export interface RunOptions {
  readonly file: CellFile
  readonly machine: OneMachine
  readonly problems: readonly Problem[]
  /** A directory for data files and homes. */
  readonly work: string
  readonly threads: number
  /** When no other cell is begun. */
  readonly untilMs?: number
}

export interface RunListener {
  onRound (key: CellKey, round: number, loss: number): void
  onCell (cell: Cell): void
}

/** The questions are the same for every seed, so that the base model answers them once. */
const QUESTIONS_SEED = 'questions'

/** Returns the systems of a data set in a plan, in the order in which they are computed. */
export function systemsOf (plan: Pick<Plan, 'clients' | 'protections' | 'protectedProblems'>, problem: string): string[] {
  const alone = Array.from({ length: plan.clients }, (_, client) => aloneSystem(client))
  return ['centralised', 'federated', ...alone, ...protectionsOf(plan, problem).map(protectedSystem)]
}

/** Returns the protections whose federations a data set has beside the one without. */
function protectionsOf ({ protections, protectedProblems }: Pick<Plan, 'protections' | 'protectedProblems'>, problem: string): readonly Protection[] {
  return protectedProblems.includes(problem) ? protections : []
}

/**
 * Computes the cells of a plan that are not there yet: seed by seed, so that what is interrupted has something of every data set. Returns
 * whether all are there.
 */
export async function runCells (options: RunOptions, listener: RunListener): Promise<boolean> {
  const { file: { plan }, problems, machine, work, untilMs = Infinity } = options
  await mkdir(work, { recursive: true })
  const runs: ProblemRun[] = []
  for (const problem of problems) {
    const { testRecords } = plan.problems[problem.name]!
    runs.push(new ProblemRun(options, listener, problem, await examOf(machine, plan.model, problem, testRecords, work)))
  }
  for (const seed of plan.seeds)
    for (const run of runs) if (!await run.compute(seed, untilMs)) return false
  return true
}

/** What a training came to, as a cell has it. */
type Training = Omit<Cell, keyof CellKey | keyof Judged | 'judgingSeconds'>

/** The cells of one data set. */
class ProblemRun {
  readonly #options: RunOptions
  readonly #listener: RunListener
  readonly #problem: Problem
  readonly #exam: Exam

  constructor (options: RunOptions, listener: RunListener, problem: Problem, exam: Exam) {
    this.#options = options
    this.#listener = listener
    this.#problem = problem
    this.#exam = exam
  }

  /** Computes the cells of a seed that are not there yet, one after another until the time is up. Returns whether all are there. */
  async compute (seed: number, untilMs: number): Promise<boolean> {
    const { file, machine, work } = this.#options
    const { plan } = file
    const { name: problem } = this.#problem
    const base = { problem, system: 'base', seed: null }
    if (file.find(base) === undefined) {
      await machine.reset(seed)
      await this.#judge(base, { trainingSeconds: 0, trainingLoss: null })
    }
    const missing = systemsOf(plan, problem).filter((system) => file.find({ problem, system, seed }) === undefined)
    if (missing.length === 0) return true
    const { sequences, perClient } = plan.problems[problem]!
    const paths = await writeShares(this.#problem, { clients: plan.clients, perClient, seed, least: sequences }, work)
    const source = { model: plan.model, config: machine.config, problem: this.#problem }
    const clients: Batches[] = []
    for (const path of paths) clients.push(await readBatches(source, path, { seed: String(seed), sequences }))
    let central: ReadonlyMap<string, Tensor> | undefined
    for (const system of missing) {
      if (Date.now() >= untilMs) return false
      const key = { problem, system, seed }
      const protection = [UNPROTECTED, ...protectionsOf(plan, problem)].find((each) => system === protectedSystem(each))
      if (protection !== undefined) {
        await this.#federate(key, seed, protection, paths, protection === UNPROTECTED ? central : undefined)
        continue
      }
      const alone = clients.filter((_, client) => system === aloneSystem(client))
      const adapter = await this.#train(key, seed, alone.length === 0 ? clients : alone)
      if (alone.length === 0) central = adapter
    }
    return true
  }

  /** Trains on one machine. Returns the adapter. */
  async #train (key: CellKey, seed: number, clients: readonly Batches[]): Promise<ReadonlyMap<string, Tensor>> {
    const { file: { plan }, machine } = this.#options
    const startedAtMs = performance.now()
    const settings = { rounds: plan.problems[key.problem]!.rounds, seed, learningRate: plan.learningRate }
    const { adapter, loss } = await machine.train(clients, settings, (round, loss) => { this.#listener.onRound(key, round, loss) })
    await this.#judge(key, { trainingSeconds: secondsSince(startedAtMs), trainingLoss: loss })
    return adapter
  }

  async #federate (
    key: CellKey,
    seed: number,
    protection: Protection,
    paths: readonly string[],
    central: ReadonlyMap<string, Tensor> | undefined
  ): Promise<void> {
    const { file: { plan }, machine, work, threads } = this.#options
    const { model, learningRate, loraR, loraAlpha, wire } = plan
    const { rounds, sequences } = plan.problems[key.problem]!
    const startedAtMs = performance.now()
    const root = await mkdtemp(join(work, 'federation-'))
    try {
      const settings = { model, learningRate, loraR, loraAlpha, wire, rounds, sequences, seed, protection, problem: this.#problem, threads }
      const onRound = (round: number, loss: number): void => { this.#listener.onRound(key, round, loss) }
      const { adapter, loss, tokens: _, ...figures } = await federate(root, settings, paths, onRound)
      await machine.use(adapter)
      await this.#judge(key, {
        trainingSeconds: secondsSince(startedAtMs),
        trainingLoss: loss,
        ...figures,
        ...central === undefined ? {} : { fromCentralised: relativeDistance(adapter, central, machine.initial(seed)) }
      })
    } finally {
      await rm(root, { recursive: true, force: true })
    }
  }

  /** Has the model with the adapters in place answer the questions, and keeps the cell. */
  async #judge (key: CellKey, training: Training): Promise<void> {
    const { file, machine } = this.#options
    const startedAtMs = performance.now()
    const judged = await machine.judge(this.#exam)
    const cell = { ...key, ...judged, ...training, judgingSeconds: secondsSince(startedAtMs) }
    await file.add(cell)
    this.#listener.onCell(cell)
  }
}

/** Writes the questions of a data set, the same ones for every seed, and reads them as tokens. */
export async function examOf (machine: OneMachine, model: string, problem: Problem, count: number, work: string): Promise<Exam> {
  const path = join(work, `${problem.name}-test.jsonl`)
  await writeItems(path, drawn(problem.test, count, QUESTIONS_SEED))
  return await Exam.read({ model, config: machine.config, problem }, path)
}

interface Shares {
  readonly clients: number
  readonly perClient: number
  readonly seed: number
  /** Records of a client at least. */
  readonly least: number
}

/** Spreads the records of a data set over clients, and writes a file for each. Returns their paths. */
export async function writeShares (problem: Problem, { clients, perClient, seed, least }: Shares, work: string): Promise<string[]> {
  const shares = splitOver(problem.train, clients, problem.split, String(seed), least)
  return await Promise.all(shares.map(async (share, client) => {
    const path = join(work, `${problem.name}-${seed}-client-${client}.jsonl`)
    await writeItems(path, drawn(share, perClient, `${seed}/records`))
    return path
  }))
}

function drawn (items: readonly Item[], count: number, seed: string): Item[] {
  return Array.from(permutation(items.length, seed).slice(0, count), (i) => items[i]!)
}

async function writeItems (path: string, items: readonly Item[]): Promise<void> {
  await writeFile(path, items.map(({ fields }) => `${JSON.stringify(fields)}\n`).join(''))
}

function secondsSince (startedAtMs: number): number {
  return Math.round((performance.now() - startedAtMs) / 100) / 10
}
