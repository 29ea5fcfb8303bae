import { z } from 'zod'
import { protectionSchema } from './protections.ts'

/** What a run computes: everything that its cells depend on. */
export const planSchema = z.object({
  model: z.string(),
  clients: z.int().min(2),
  seeds: z.array(z.int().min(0)).min(1),
  learningRate: z.number().positive(),
  loraR: z.int().min(1),
  loraAlpha: z.number().positive(),
  wire: z.enum(['fp32', 'fp16', 'int8']),
  /** Of federations beside the one without. */
  protections: z.array(protectionSchema),
  /** The data sets that have these federations. */
  protectedProblems: z.array(z.string()),
  problems: z.record(z.string(), z.object({
    rounds: z.int().min(1),
    /** Sequences that a client brings to a round. */
    sequences: z.int().min(1),
    /** Records that a client has to learn from. */
    perClient: z.int().min(1),
    testRecords: z.int().min(1)
  }))
})

export type Plan = z.output<typeof planSchema>
export type ProblemPlan = Plan['problems'][string]

/** Tokens a second of this machine with this model, as measured. */
export interface Speeds {
  /** Through a training step. */
  readonly training: number
  /** Through the model without gradients. */
  readonly scoring: number
  /** One after another. */
  readonly generation: number
}

/** What a record of a data set costs. */
export interface RecordCost {
  readonly name: string
  /** Tokens of a sequence that is learnt from, on average. */
  readonly trainTokens: number
  /** Tokens that are scored for a question, on average. */
  readonly scoredTokens: number
  /** Tokens that are generated for a question, at most. */
  readonly generatedTokens: number
  readonly trainRecords: number
  readonly testRecords: number
  /** Federations of each seed: without protection, and with each. */
  readonly federations: number
}

export interface Budget {
  readonly minutes: number
  readonly clients: number
  readonly seeds: number
}

type Shape = Omit<Budget, 'minutes'>

/** What is left for what is not foreseen: other work on the machine, and speeds that differ from those measured. */
const SHARE_USED = 0.85
/** Of the time, what goes to training; the rest asks and judges. */
const TRAINING_SHARE = 0.6
/** A federated round beside the same batches on one machine: the wire, snapshots, and parties that wait for each other. */
const FEDERATED_FACTOR = 1.3
/** To found a federation, start it and stop it, with the model of the default. */
const FEDERATION_SECONDS = 20
/** Tokens that a client brings to a round: few enough for many rounds, since an adapter learns little in ten steps. */
const TOKENS_PER_ROUND = 240
/** Passes of a client over its records. */
const PASSES = 2

const ROUNDS = { least: 2, most: 200 } as const
const SEQUENCES = { least: 1, most: 16 } as const
const LEAST_TEST_RECORDS = 8

/** Chooses rounds and records so that all cells take as long as they may. Returns them with the seconds that they should take. */
export function fitPlan (
  { minutes, ...shape }: Budget,
  speeds: Speeds,
  costs: readonly RecordCost[]
): { readonly problems: Plan['problems'], readonly seconds: number } {
  const { clients, seeds } = shape
  const federations = costs.reduce((sum, cost) => sum + cost.federations, 0)
  const usable = Math.max(0, minutes * 60 * SHARE_USED - FEDERATION_SECONDS * federations * seeds) / costs.length
  const problems = Object.fromEntries(costs.map((cost): [string, ProblemPlan] => {
    const sequences = clamp(Math.round(TOKENS_PER_ROUND / cost.trainTokens), SEQUENCES.least, SEQUENCES.most)
    const roundSeconds = trainingSeconds(cost, 1, sequences, shape, speeds) * seeds
    const rounds = clamp(Math.floor(usable * TRAINING_SHARE / roundSeconds), ROUNDS.least, ROUNDS.most)
    const cells = cellsOf(shape, cost)
    const testRecords = Math.min(cost.testRecords, Math.max(
      LEAST_TEST_RECORDS,
      Math.floor((usable - trainingSeconds(cost, rounds, sequences, shape, speeds) * seeds) / (questionSeconds(cost, speeds) * cells))
    ))
    const perClient = clamp(Math.ceil(rounds * sequences / PASSES), sequences, Math.floor(cost.trainRecords / clients))
    return [cost.name, { rounds, sequences, perClient, testRecords }]
  }))
  return { problems, seconds: secondsOf(problems, shape, speeds, costs) }
}

/** Returns the seconds that all cells of a plan should take. */
export function secondsOf (
  problems: Plan['problems'],
  shape: Shape,
  speeds: Speeds,
  costs: readonly RecordCost[]
): number {
  return costs.reduce((sum, cost) => {
    const { rounds, sequences, testRecords } = problems[cost.name]!
    return sum + shape.seeds * (FEDERATION_SECONDS * cost.federations + trainingSeconds(cost, rounds, sequences, shape, speeds)) +
      cellsOf(shape, cost) * testRecords * questionSeconds(cost, speeds)
  }, 0)
}

/** Returns the seconds that one seed's trainings take: each client alone, all of them on one machine, and federated. */
function trainingSeconds (
  { trainTokens, federations }: RecordCost,
  rounds: number,
  sequences: number,
  { clients }: Shape,
  { training }: Speeds
): number {
  return rounds * sequences * trainTokens * clients * (2 + FEDERATED_FACTOR * federations) / training
}

function cellsOf ({ clients, seeds }: Shape, { federations }: RecordCost): number {
  return 1 + seeds * (clients + 1 + federations)
}

function questionSeconds ({ scoredTokens, generatedTokens }: RecordCost, { scoring, generation }: Speeds): number {
  return scoredTokens / scoring + generatedTokens / generation
}

function clamp (value: number, least: number, most: number): number {
  return Math.max(least, Math.min(most, value))
}
