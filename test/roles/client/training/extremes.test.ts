import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readSnapshot } from '../../../../src/model/checkpoint/snapshot.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { Optimizer } from '../../../../src/model/training/optimizer.ts'
import { Parameters as TrainedParameters } from '../../../../src/model/training/parameters.ts'
import { fromServer, type TrainClientChannel } from '../../../../src/protocols/train/messages.ts'
import { BadMessageError } from '../../../../src/protocols/wire/errors.ts'
import { AdapterState } from '../../../../src/roles/client/training/adapter-state.ts'
import { ClientTrainer, type ClientTrainerComponents, type ClientTrainerSettings } from '../../../../src/roles/client/training/trainer.ts'
import { TrainingStream } from '../../../../src/roles/middle/training-stream.ts'
import { aggregationOf } from '../../../../src/roles/training/aggregation/factory.ts'
import type { TrainingPlan } from '../../../../src/roles/training/plan.ts'
import { float32, int32, isFiniteTensor, type Tensor } from '../../../../src/tensor.ts'

const NAME = '0.self_attn.q_proj.lora_A'

type Message = readonly [Parameters<typeof fromServer>[0], readonly Tensor[]]

const uint32 = fc.oneof(fc.constantFrom(0, 1, 2, 3, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1), fc.nat({ max: 2 ** 32 - 1 }))
const double = fc.oneof(fc.constantFrom(Number.NaN, Infinity, -Infinity, 0, -0, 1, -1, 1e300, -1e300, 5e-324, 1e-300), fc.double())
const float = fc.oneof(
  fc.constantFrom(Number.NaN, Infinity, -Infinity, 0, 1, -1, 3.4e38, -3.4e38, 1e-45, 1e9, 1e-20),
  fc.float({ noDefaultInfinity: false })
)
const pair = fc.tuple(float, float).map((values) => float32([2], values))
const steps = fc.oneof(fc.constantFrom(-(2 ** 31), -1, 0, 1, 2 ** 30, 2 ** 31 - 1), fc.integer()).map((t) => int32([1], [t]))
/** The adapter alone, or with the state of its optimiser. */
const named = fc.oneof(
  pair.map((value) => ({ names: [NAME], tensors: [value] })),
  fc.tuple(pair, pair, pair, steps).map((tensors) => ({ names: [NAME, `${NAME}.m`, `${NAME}.v`, `${NAME}.t`], tensors })),
  fc.constant({ names: [] as string[], tensors: [] as Tensor[] })
)
const round = fc.oneof({ weight: 3, arbitrary: fc.constantFrom(0, 1, 2) }, { weight: 1, arbitrary: uint32 })

const message: fc.Arbitrary<Message> = fc.oneof(
  fc.record({ round, countedRound: round, members: uint32, state: named }).map(({ state: { names, tensors }, ...fields }) =>
    [{ case: 'enlisted', value: { ...fields, names } }, tensors] as const
  ),
  fc.record({ round, scale: double, leftOut: fc.boolean(), members: uint32, state: named }).map(
    ({ state: { names, tensors }, ...fields }) => [{ case: 'step', value: { ...fields, names } }, tensors] as const
  ),
  fc.record({ round, coefficient: double }).map((value) => [{ case: 'coefficient', value }, []] as const),
  fc.record({ members: uint32, needed: uint32 }).map((value) => [{ case: 'waiting', value }, []] as const),
  fc.record({ round: uint32.filter((number) => number > 3), members: uint32, deadlineMs: uint32 }).map((value) =>
    [{ case: 'begin', value }, []] as const
  ),
  fc.record({ round, pass: uint32 }).map((value) => [{ case: 'gradient', value }, []] as const)
)

describe("a server's numbers", () => {
  let root: string
  let device: Device
  let optimizer: Optimizer
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-extremes-'))
    device = await openDevice('cpu', { threads: 1 })
    optimizer = await Optimizer.open(device, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0.01 })
  })
  afterAll(async () => {
    await device.close()
    await rm(root, { recursive: true, force: true })
  })

  it.each(['shared', 'average', 'personal'] as const)(
    'leave the state of a client with %s ends finite, on the device and on disk',
    async (mode) => {
      let run = 0
      await fc.assert(
        fc.asyncProperty(fc.array(message, { minLength: 1, maxLength: 6 }), async (messages) => {
          const path = join(root, `${mode}-${++run}.safetensors`)
          const parameters = await TrainedParameters.create(device, new Map([[NAME, await device.zeros('float32', [2])]]))
          const state = await AdapterState.open({ device, optimizer, parameters, shapes: [{ name: NAME, shape: [2] }], path })
          const queue = messages.map(([kind, tensors]) => ({ message: fromServer(kind), tensors }))
          const channel = {
            traffic: { sentBytes: 0, receivedBytes: 0, sentFrames: 0, receivedFrames: 0 },
            send: async () => {
              await Promise.resolve()
            },
            receive: async () => await Promise.resolve(queue.shift() ?? Promise.reject(new BadMessageError('that was all'))),
            close: async () => {
              await Promise.resolve()
            },
            abort: () => {}
          }
          const plan = {
            strategy: 'client-batch',
            ends: mode === 'average' ? { mode, every: 1 } : { mode },
            training: { maxGradientNorm: 1, gradientNormScope: 'party', minClients: 1 }
          } as unknown as TrainingPlan
          const trainer = new ClientTrainer({
            device,
            state,
            strategy: aggregationOf(plan).client,
            sessions: { training: async () => await Promise.resolve(new TrainingStream(channel as unknown as TrainClientChannel)) },
            batches: { at: (cursor: object) => ({ next: cursor }) }
          } as unknown as ClientTrainerComponents, {
            charter: {
              ends: mode === 'average' ? { mode, every: 1 } : { mode },
              model: { blocks: 2, hidden: 4 },
              wire: 'fp32',
              training: {
                gradientAccumulationSteps: 1,
                maxGradientNorm: 1,
                schedule: { name: 'cosine', warmupRounds: 1, totalRounds: 3 },
                optimizer: { learningRate: 1e-2 }
              }
            },
            partition: { inputBlocks: 1, outputBlocks: 1 },
            peer: 'peer',
            protections: {},
            progress: {
              federation: '',
              round: 0,
              partition: { inputBlocks: 1, outputBlocks: 1 },
              run: { key: '', rounds: 3, done: 0, cursor: { epoch: 0, index: 0 } }
            },
            resumed: true
          } as unknown as ClientTrainerSettings)
          await (async () => {
            for await (const event of trainer.run(new AbortController().signal)) void event
          })().catch((error: unknown) => {
            expect(error).toMatchObject({ code: expect.stringMatching(/^E_(BAD_MESSAGE|ROUNDS_AHEAD|STEP_OVERFLOW)$/) as string })
          })
          for (const [name, value] of await parameters.state()) expect(isFiniteTensor(value), name).toBe(true)
          const saved = await readSnapshot(path)
          for (const [name, value] of saved?.tensors ?? []) expect(isFiniteTensor(value), name).toBe(true)
          const seen = state.progress?.round ?? 0
          expect(Number.isSafeInteger(seen) && seen >= 0 && seen < 2 ** 32).toBe(true)
        }),
        { numRuns: 150 }
      )
    },
    60_000
  )

  it("refuse a step's scale that no step has, and take those that steps have", async () => {
    const parameters = await TrainedParameters.create(device, new Map([[NAME, await device.zeros('float32', [2])]]))
    const state = await AdapterState.open({
      device,
      optimizer,
      parameters,
      shapes: [{ name: NAME, shape: [2] }],
      path: join(root, 'scale')
    })
    const gradient = new Map([[NAME, float32([2], [1, -1])]])
    await expect(state.step(gradient, { scale: Number.NaN, learningRate: 1e-2 })).rejects.toMatchObject({ code: 'E_STEP_OVERFLOW' })
    expect([...(await state.values()).get(NAME)!.data]).toEqual([0, 0])
    await state.step(gradient, { scale: 0.5, learningRate: 1e-2 })
    expect((await state.values()).get(NAME)!.data[0]).toBeLessThan(0)
  })
})
