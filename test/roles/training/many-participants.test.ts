import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { trainedShapes } from '../../../src/model/layers/trainable.ts'
import { Boundary } from '../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { clippingCoefficient, Optimizer } from '../../../src/model/training/optimizer.ts'
import { Parameters } from '../../../src/model/training/parameters.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { LocalStage } from '../../../src/roles/middle/local-stage.ts'
import { aggregationOf } from '../../../src/roles/training/aggregation/factory.ts'
import { Coordinator } from '../../../src/roles/training/coordinator.ts'
import type { Begin, PassId } from '../../../src/roles/training/participant.ts'
import type { TrainingPlan } from '../../../src/roles/training/plan.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { baseWeights, formulaWeight, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'
import { FakeClock } from './fake-clock.ts'
import { MemoryParticipant, MemoryState } from './memory.ts'

const golden = readModelGolden('llama/gqa')
const model = modelOf(golden.config)
const PARTICIPANTS = 300
const TOKENS = 2
const DEADLINE_MS = 60_000
const LEARNING_RATE = 1e-2
const MAX_NORM = 0.5
const adam = { beta1: 0.9, beta2: 0.999, epsilon: 1e-5, weightDecay: 0.01 }
const MIDDLE = { first: 0, end: model.layers }

const plan: TrainingPlan = {
  strategy: 'client-batch',
  ends: { mode: 'personal' },
  limits: { maxClients: PARTICIPANTS },
  model: { blocks: model.layers },
  partitions: { inputBlocks: { max: 0 }, outputBlocks: { max: 0 } },
  training: {
    optimizer: { learningRate: LEARNING_RATE },
    schedule: { name: 'constant', warmupRounds: 0, totalRounds: 1 },
    maxGradientNorm: MAX_NORM,
    gradientNormScope: 'party',
    gradientAccumulationSteps: 1,
    roundDeadlineMs: DEADLINE_MS,
    minClients: PARTICIPANTS
  }
}

const made = new Map<string, Tensor[]>()

/** Values [tokens, hidden] that follow from the name. */
function rows (name: string): Tensor[] {
  const before = made.get(name)
  if (before !== undefined) return before
  const { data } = formulaWeight(name, 'rows', [TOKENS, model.hiddenSize])
  const values = [float32([TOKENS, model.hiddenSize], data as Float32Array)]
  made.set(name, values)
  return values
}

/** Values of several participants, one after another. */
function joined (parts: readonly Tensor[][]): Tensor[] {
  return [float32([parts.length * TOKENS, model.hiddenSize], parts.flatMap(([part]) => [...part!.data as Float32Array]))]
}

/** What a participant does: most reply at once, some late, and some are gone before one of their replies. */
type Conduct = 'prompt' | 'late' | 'too late' | 'gone before forward' | 'gone before backward' | 'gone before contribution'

function conductOf (index: number): Conduct {
  const rare: readonly Conduct[] = ['late', 'too late', 'gone before forward', 'gone before backward', 'gone before contribution']
  return rare[index % 30] ?? 'prompt'
}

function nameOf (index: number): string {
  return `client-${String(index).padStart(3, '0')}`
}

/** A client in memory, with hidden states and gradients of its own. */
class Client extends MemoryParticipant {
  readonly conduct: Conduct
  readonly #coordinator: Coordinator
  readonly #clock: FakeClock

  constructor (index: number, coordinator: Coordinator, clock: FakeClock) {
    super(nameOf(index), MIDDLE)
    this.conduct = conductOf(index)
    this.#coordinator = coordinator
    this.#clock = clock
  }

  /** Whether its work is in the step. */
  get counts (): boolean { return this.conduct === 'prompt' || this.conduct === 'late' }

  override begin (begin: Begin): void {
    super.begin(begin)
    const reply = (): void => {
      this.#coordinator.current?.forward.add(this.peer, { lengths: [TOKENS], tensors: rows(this.peer) })
    }
    if (this.conduct === 'gone before forward') return
    if (this.conduct === 'late') this.#clock.after(0.4 * DEADLINE_MS, reply)
    else reply()
  }

  override hidden (pass: PassId, tensors: readonly Tensor[]): void {
    super.hidden(pass, tensors)
    const reply = (): void => {
      this.#coordinator.current?.backward?.add(this.peer, { tokens: TOKENS, tensors: rows(`gradient of ${this.peer}`) })
    }
    if (this.conduct === 'gone before backward') return
    if (this.conduct === 'late') this.#clock.after(0.5 * DEADLINE_MS, reply)
    else if (this.conduct === 'too late') this.#clock.after(1.1 * DEADLINE_MS, reply)
    else reply()
  }

  override gradient (pass: PassId, tensors: readonly Tensor[]): void {
    super.gradient(pass, tensors)
    if (this.conduct === 'gone before contribution') return
    // The collector of contributions opens after the gradients are told.
    queueMicrotask(() => this.#coordinator.current?.contribution?.add(this.peer, new Map()))
  }
}

describe('a round with 300 participants in memory', () => {
  let device: Device
  let optimizer: Optimizer
  let federated: Awaited<ReturnType<typeof machine>>
  let alone: Awaited<ReturnType<typeof machine>>
  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    optimizer = await Optimizer.open(device, adam)
    federated = await machine()
    alone = await machine()
    // Programs are compiled when they first run.
    const first = await federated.stage.forward([{ id: 'a', ...MIDDLE, lengths: [TOKENS], tensors: rows('a') }], { dropoutSeed: 'round/0' })
    await first.backward(new Map([['a', { tensors: rows('a') }]]))
    first.free()
    for (let index = 0; index < PARTICIPANTS; index++) {
      rows(nameOf(index))
      rows(`gradient of ${nameOf(index)}`)
    }
  })
  afterAll(async () => { await device.close() })

  async function machine () {
    const settings = { ...golden.lora, dropout: 0, rslora: false, seed: '00' }
    const span = await TrainableSpan.load(device, model, memorySource(baseWeights(golden)), MIDDLE, settings)
    await span.weights.setTrained(loraWeights(golden))
    const parameters = await Parameters.create(device, span.weights.trained)
    const stage = new LocalStage({ device, span, boundary: new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' }) })
    return { stage, parameters, shapes: trainedShapes(model, settings, MIDDLE) }
  }

  it('ends with the parameters of one machine, though some are late and some vanish', async () => {
    const { stage, parameters, shapes } = federated
    const clock = new FakeClock()
    const state = new MemoryState()
    const strategy = aggregationOf(plan).server({ device, optimizer, parameters, shapes, state })
    const logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
    const coordinator = new Coordinator({ plan, stage, strategy, state, logger, clock })
    const clients = Array.from({ length: PARTICIPANTS }, (_, index) => new Client(index, coordinator, clock))
    for (const client of clients) await coordinator.enlist(client, 0)

    const controller = new AbortController()
    const running = coordinator.run(controller.signal)
    while (state.round === 0) {
      // Time passes while nothing is computed: whoever is waited for is late or gone.
      await new Promise((resolve) => { setTimeout(resolve, 2) })
      if (clock.pending > 0 && (coordinator.current?.waitingFor.length ?? 0) > 0) clock.advance(0.1 * DEADLINE_MS)
    }
    controller.abort()
    await running

    const accepted = clients.filter(({ counts }) => counts)
    expect(accepted).toHaveLength(PARTICIPANTS - 40)
    for (const client of clients) expect(state.countedRound(client.peer), client.conduct).toBe(client.counts ? 1 : 0)
    const told = clients.filter(({ told }) => told.includes('step')).length
    expect([told, clients.filter(({ told }) => told.includes('left out')).length]).toEqual([accepted.length, 40])

    // One machine: the batch of all whose work counts, and one step on the mean over its tokens.
    const pass = await alone.stage.forward([{
      id: 'all',
      ...MIDDLE,
      lengths: accepted.map(() => TOKENS),
      tensors: joined(accepted.map(({ peer }) => rows(peer)))
    }], { dropoutSeed: 'round/0' })
    await pass.backward(new Map([['all', { tensors: joined(accepted.map(({ peer }) => rows(`gradient of ${peer}`))) }]]))
    const tokens = TOKENS * accepted.length
    const norm = await optimizer.norm(pass.adapterGradients.values()) / tokens
    const scale = clippingCoefficient(norm, MAX_NORM) / tokens
    await alone.parameters.step(optimizer, pass.adapterGradients, { learningRate: LEARNING_RATE, scale })
    pass.free()
    const [before, expected] = [loraWeights(golden), await alone.parameters.state()]
    expect(state.tensors.size).toBe(expected.size)
    for (const [name, { data }] of expected)
      expect(relativeError(state.tensors.get(name)!.data as Float32Array, data as Float32Array), name).toBeLessThan(1e-5)
    for (const [name, { data }] of before) expect(state.tensors.get(name)!.data, name).not.toEqual(data)
  })
})
