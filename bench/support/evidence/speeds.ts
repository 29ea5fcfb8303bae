import { mkdir } from 'node:fs/promises'
import { readBatches, type Exam } from './exam.ts'
import type { OneMachine } from './one-machine.ts'
import type { RecordCost, Speeds } from './plan.ts'
import type { Problem } from './problems.ts'
import { examOf, writeShares } from './run.ts'

/** Questions whose tokens are counted, and records of a data set that are read for their length. */
const SAMPLE = 64
/** Questions that are timed: the speed is that of a machine that has compiled its programs. */
const TIMED_QUESTIONS = 4
const TIMED_ANSWERS = 2
const TIMED_ROUNDS = 2
const TIMED_SEQUENCES = 8
const LEARNING_RATE = 1e-6

/** Measures what a record of each data set costs, and how fast this machine is with this model. */
export async function measure (
  machine: OneMachine,
  model: string,
  problems: readonly Problem[],
  federationsOf: (problem: string) => number,
  work: string
): Promise<{ readonly speeds: Speeds, readonly costs: readonly RecordCost[] }> {
  await mkdir(work, { recursive: true })
  const costs: RecordCost[] = []
  const exams = new Map<string, Exam>()
  for (const problem of problems) {
    const exam = await examOf(machine, model, problem, SAMPLE, work)
    exams.set(problem.name, exam)
    const [path = ''] = await writeShares({ ...problem, split: { by: 'iid' } }, { clients: 1, perClient: SAMPLE, seed: 0, least: 1 }, work)
    const batches = await readBatches({ model, config: machine.config, problem }, path, { seed: '0', sequences: SAMPLE })
    const { lengths } = batches.at({ epoch: 0, index: 0 }).batch
    costs.push({
      name: problem.name,
      trainTokens: lengths.reduce((sum, length) => sum + length, 0) / lengths.length,
      scoredTokens: exam.cost.scored / exam.size,
      generatedTokens: exam.cost.generated / exam.size,
      trainRecords: problem.train.length,
      testRecords: problem.test.length,
      federations: federationsOf(problem.name)
    })
  }
  const training = await trainingSpeed(machine, model, problems[0]!, work)
  await machine.reset(0)
  const scorer = problems.find((_, i) => costs[i]!.generatedTokens === 0)
  const scoring = scorer === undefined ? training : await scoringSpeed(machine, exams.get(scorer.name)!)
  const writer = problems.find((_, i) => costs[i]!.generatedTokens > 0)
  const generation = writer === undefined ? Infinity : await generationSpeed(machine, exams.get(writer.name)!, scoring)
  return { speeds: { training, scoring, generation }, costs }
}

async function trainingSpeed (machine: OneMachine, model: string, problem: Problem, work: string): Promise<number> {
  const [path = ''] = await writeShares({ ...problem, split: { by: 'iid' } }, { clients: 1, perClient: SAMPLE, seed: 0, least: 1 }, work)
  const batches = await readBatches({ model, config: machine.config, problem }, path, { seed: '0', sequences: TIMED_SEQUENCES })
  const train = async (rounds: number): Promise<number> =>
    (await machine.train([batches], { rounds, seed: 0, learningRate: LEARNING_RATE })).tokens
  await train(1)
  return await perSecond(async () => await train(TIMED_ROUNDS))
}

async function scoringSpeed (machine: OneMachine, exam: Exam): Promise<number> {
  const judge = async (): Promise<number> => {
    await machine.judge(exam, TIMED_QUESTIONS)
    return exam.cost.scored / exam.size * TIMED_QUESTIONS
  }
  await judge()
  return await perSecond(judge)
}

/** Returns generated tokens a second as if every answer had as many as it may have: what ends earlier makes it faster. */
async function generationSpeed (machine: OneMachine, exam: Exam, scoring: number): Promise<number> {
  await machine.judge(exam, 1)
  const startedAtMs = performance.now()
  await machine.judge(exam, TIMED_ANSWERS)
  const seconds = (performance.now() - startedAtMs) / 1000 - exam.cost.scored / exam.size * TIMED_ANSWERS / scoring
  return exam.cost.generated / exam.size * TIMED_ANSWERS / Math.max(seconds, 1e-3)
}

async function perSecond (work: () => Promise<number>): Promise<number> {
  const startedAtMs = performance.now()
  const tokens = await work()
  return tokens / ((performance.now() - startedAtMs) / 1000)
}
