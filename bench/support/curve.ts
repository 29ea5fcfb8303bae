import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openModelDirectory } from '../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../src/model/families/index.ts'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { loadTokenizer } from '../../src/model/text/load.ts'
import { learningRateAt } from '../../src/model/training/learning-rate.ts'
import { LocalTrainer } from '../../src/model/training/local-trainer.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import type { Tensor } from '../../src/tensor.ts'
import { copyWithExactTokenizer, writeExactData } from '../../test/roles/exact-data.ts'
import { adapterTensors, mixedPartitions, startFederation } from '../../test/roles/helpers.ts'
import { batchOf } from '../../test/roles/reference.ts'
import { type Sequences, splitShakespeare } from './shakespeare.ts'

export interface CurveOptions {
  readonly model: string
  readonly text: string
  readonly rounds: number
  /** Rounds between two measurements. */
  readonly every: number
  /** Sequences of 64 tokens that a client brings to a round. */
  readonly sequences: number
  readonly heldOutSequences: number
}

/** A training, measured on text that nobody trains on. */
export interface Point {
  readonly round: number
  /** What a client's `evaluate` says, noise included; on one machine the same as `adapter`. */
  readonly evaluated: number
  /** The adapter's own loss, evaluated on one machine. */
  readonly adapter: number
}

export interface Curve {
  /** Relative to the clip, on hidden states and on gradients. */
  readonly noise: number
  readonly points: readonly Point[]
  /** Bytes that a client sends and receives in one round. */
  readonly wireBytes: number
}

export interface Curves {
  readonly clients: ReadonlyArray<{ readonly speakers: number, readonly tokens: number }>
  readonly centralised: readonly Point[]
  readonly federated: readonly Curve[]
}

const TOKENS = 64
const SEED = '07'
const TARGETS = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] as const
const LEARNING_RATE = 5e-3
const RANK = 16
const ALPHA = 32
const ADAMW = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }
const MAX_GRADIENT_NORM = 1

/** The same rounds centrally, and by a federation of three clients with partitions 1|3|1, 2|2|1 and 1|2|2 for each noise. */
export async function measureCurves (
  options: CurveOptions,
  noises: readonly number[],
  onPoint: (name: string, point: Point) => void = () => {}
): Promise<Curves> {
  const root = await mkdtemp(join(tmpdir(), 'midspan-curve-'))
  try {
    const split = await splitShakespeare(options.text, await loadTokenizer(options.model), {
      clients: mixedPartitions.length,
      tokens: TOKENS,
      ...options
    })
    const model = await copyWithExactTokenizer(options.model, join(root, 'model'))
    const rounds = Array.from({ length: options.rounds }, (_, round) => split.clients.map(({ rounds }) => rounds[round] as Sequences))
    await using machine = await OneMachine.open(model, split.heldOut)
    const centralised = await machine.train(rounds, options, (point) => { onPoint('centralised', point) })
    const federated: Curve[] = []
    for (const noise of noises) {
      federated.push(
        await federate({ ...options, model, root, noise }, rounds, split.heldOut, machine, (point) => {
          onPoint(`noise ${noise}`, point)
        })
      )
    }
    return { clients: split.clients.map(({ speakers, tokens }) => ({ speakers, tokens })), centralised, federated }
  } finally {
    await rm(root, { recursive: true, force: true })
  }
}

type Rounds = ReadonlyArray<readonly Sequences[]>

/** Trains and evaluates the whole model here. */
class OneMachine {
  readonly #trainer: LocalTrainer
  readonly #heldOut: Sequences
  readonly #close: () => Promise<void>

  private constructor (trainer: LocalTrainer, heldOut: Sequences, close: () => Promise<void>) {
    this.#trainer = trainer
    this.#heldOut = heldOut
    this.#close = close
  }

  static async open (path: string, heldOut: Sequences): Promise<OneMachine> {
    const device = await openDevice('cpu', { threads: 1 })
    const directory = await openModelDirectory(path)
    const trainable = { r: RANK, alpha: ALPHA, dropout: 0, rslora: false, seed: SEED, targets: TARGETS.map((target) => `${target}_proj`) }
    const trainer = await LocalTrainer.load(device, modelOf(directory.config), directory, { trainable, optimizer: ADAMW })
    return new OneMachine(trainer, heldOut, async () => { await device.close() })
  }

  async train (rounds: Rounds, { every, rounds: totalRounds }: CurveOptions, onPoint: (point: Point) => void): Promise<Point[]> {
    const points: Point[] = []
    for (let round = 0; ; round++) {
      if (round % every === 0 || round === rounds.length) {
        const loss = await this.#loss()
        points.push({ round, evaluated: loss, adapter: loss })
        onPoint(points.at(-1) as Point)
      }
      if (round === rounds.length) return points
      await this.#trainer.step((rounds[round] as Sequences[]).map(batchOf), {
        learningRate: learningRateAt(scheduleOf(totalRounds), LEARNING_RATE, round),
        maxGradientNorm: MAX_GRADIENT_NORM
      })
    }
  }

  async lossOf (adapter: ReadonlyMap<string, Tensor>): Promise<number> {
    await this.#trainer.parameters.restore(adapter)
    return await this.#loss()
  }

  async [Symbol.asyncDispose] (): Promise<void> {
    this.#trainer.free()
    await this.#close()
  }

  async #loss (): Promise<number> {
    let [sum, count] = [0, 0]
    for (const sequence of this.#heldOut) {
      const { lossSum, countedTokens } = await this.#trainer.evaluate(batchOf([sequence]))
      sum += lossSum
      count += countedTokens
    }
    return sum / count
  }
}

async function federate (
  { model, root, noise, every, sequences, rounds: totalRounds }: CurveOptions & { root: string, noise: number },
  rounds: Rounds,
  heldOut: Sequences,
  machine: OneMachine,
  onPoint: (point: Point) => void
): Promise<Curve> {
  const data = await Promise.all(
    mixedPartitions.map(async (_, client) =>
      await writeExactData(join(root, `client-${client}.jsonl`), rounds.map((shares) => shares[client] as Sequences))
    )
  )
  const evaluation = await writeExactData(join(root, 'held-out.jsonl'), heldOut.map((sequence) => [sequence]))
  const { name, ...schedule } = scheduleOf(totalRounds)
  const charter: Partial<CreateOptions> = {
    ...ADAMW,
    ...schedule,
    schedule: name,
    loraR: RANK,
    loraAlpha: ALPHA,
    loraTargets: TARGETS,
    seed: SEED,
    learningRate: LEARNING_RATE,
    maxGradientNorm: MAX_GRADIENT_NORM,
    minClients: mixedPartitions.length,
    noise,
    gradientNoise: noise,
    clip: 'auto'
  }
  const federation = await startFederation({ model, charter, clients: mixedPartitions, identities: 'curve' })
  try {
    const [first] = federation.clients
    const batches = { packing: 'padded', sequences, maxTokens: TOKENS }
    const points: Point[] = []
    let wireBytes = 0
    for (let round = 0; ; round = Math.min(round + every, rounds.length)) {
      if (round > 0) {
        const [events] = await Promise.all(
          federation.clients.map(async (client, index) => await client.train({ data: data[index] as string, rounds: round, ...batches }))
        )
        const last = events?.at(-1)
        wireBytes = (last?.sentBytes ?? 0) + (last?.receivedBytes ?? 0)
      }
      const { loss } = await first!.evaluate({ data: evaluation, ...batches })
      points.push({ round, evaluated: loss, adapter: await machine.lossOf(adapterTensors(await first!.export(join(root, 'adapter')))) })
      onPoint(points.at(-1) as Point)
      if (round === rounds.length) return { noise, points, wireBytes }
    }
  } finally {
    await federation.stop()
  }
}

/** Up over the first thirtieth of the rounds, down along a cosine. */
function scheduleOf (totalRounds: number): { name: 'cosine', warmupRounds: number, totalRounds: number } {
  return { name: 'cosine', warmupRounds: Math.ceil(totalRounds / 30), totalRounds }
}
