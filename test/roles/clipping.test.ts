import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { fromClient, type TrainClientChannel } from '../../src/protocols/train/messages.ts'
import { FederatedAdapters } from '../../src/roles/training/aggregation/federated-adapters.ts'
import { float32, type Tensor } from '../../src/tensor.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { Attacker } from './attacker.ts'
import { adapterTensors, startFederation, type RoundEvent, type TestFederation } from './helpers.ts'

const HIDDEN = 16
const LENGTHS = [5, 3]
const MIDDLE = { first: 1, end: 4 }
const ROUNDS = 3
/** Long beside a round of this model, which takes a few dozen milliseconds. */
const DEADLINE_MS = 2_500
const TIMEOUT_MS = 120_000

/** Every round is clipped. */
const charter: Partial<CreateOptions> = {
  ends: { mode: 'personal' },
  gradientNormScope: 'global',
  maxGradientNorm: 0.01,
  loraTargets: ['q', 'v'],
  loraR: 2,
  learningRate: 1e-2
}

let root: string
let federation: TestFederation

beforeEach(async () => {
  root = await temporaryDirectory()
  await writeTinyModel(join(root, 'model'))
  for (const index of [0, 1]) await writeTinyData(data(index), index + 1)
})
afterEach(async () => {
  vi.restoreAllMocks()
  await federation.stop()
})

function data (client: number): string {
  return join(root, `${client}.jsonl`)
}

function randomRows (): Tensor {
  const rows = LENGTHS.reduce((sum, length) => sum + length, 0)
  return float32([rows, HIDDEN], Float32Array.from({ length: rows * HIDDEN }, () => Math.random() - 0.5))
}

interface Place {
  readonly channel: TrainClientChannel
  readonly round: number
  readonly coefficient?: number
}

/** Enlists and answers up to this stage of a round, telling this norm. Rejects with what the server ends the stream with. */
async function follow (attacker: Attacker, stage: 'gradient' | 'coefficient', norm?: number): Promise<Place> {
  const channel = await attacker.training()
  await channel.send(fromClient({ case: 'enlist', value: { middle: MIDDLE, round: 0 } }))
  for (;;) {
    const { message: { kind } } = await channel.receive(AbortSignal.timeout(TIMEOUT_MS))
    switch (kind.case) {
      case 'begin':
        await channel.send(fromClient({ case: 'forward', value: { round: kind.value.round, lengths: LENGTHS } }), [randomRows()])
        break
      case 'hidden':
        await channel.send(fromClient({ case: 'backward', value: { round: kind.value.round, tokens: LENGTHS.length } }), [randomRows()])
        break
      case 'gradient':
        if (stage === 'gradient') return { channel, round: kind.value.round }
        await channel.send(
          fromClient({ case: 'gradientNorm', value: { round: kind.value.round, ...(norm === undefined ? {} : { norm }) } })
        )
        break
      case 'coefficient': return { channel, ...kind.value }
      default:
    }
  }
}

describe('clients that are clipped by one norm', { timeout: TIMEOUT_MS }, () => {
  /** Two honest clients train; `onRound` is told when one is over. Resolves with what each of them has come to. */
  async function train (onRound: (round: number) => void = () => {}): Promise<Array<Map<string, Tensor>>> {
    return await Promise.all(federation.clients.map(async (client, index) => {
      for await (const event of client.peer.events('train', { data: data(index), rounds: ROUNDS, sequences: 2, packing: 'padded' })) {
        if (index === 0 && (event as RoundEvent).type === 'round') onRound((event as RoundEvent).round)
      }
      return adapterTensors(await client.export(federation.path(`out-${index}`)))
    }))
  }

  const start = async (minClients: number): Promise<TestFederation> =>
    await startFederation({
      model: join(root, 'model'),
      identities: 'clipping',
      clients: [{}, { inputBlocks: 2 }],
      charter: { ...charter, minClients, roundDeadline: DEADLINE_MS }
    })

  it('train as if others had never come that tell an absurd norm, or vanish before or after they are told the coefficient', async () => {
    federation = await start(2)
    const expected = await train()
    await federation.stop()

    // No round begins without the attacker, and none is its own.
    federation = await start(3)
    const attacker = await Attacker.join(federation, 'attacker')
    let over = -1
    const training = train((round) => {
      over = round
    })
    const isOver = async (round: number): Promise<void> => {
      await vi.waitFor(() => {
        expect(over).toBeGreaterThanOrEqual(round)
      }, TIMEOUT_MS)
    }

    for (const norm of [undefined, NaN, -1, Infinity, 1e15])
      await expect(follow(attacker, 'coefficient', norm)).rejects.toMatchObject({ code: 'E_BAD_MESSAGE' })
    await isOver(0)

    const silent = await follow(attacker, 'gradient')
    silent.channel.abort(new Error('gone'))
    await isOver(silent.round)

    const told = await follow(attacker, 'coefficient', 7)
    expect(told.coefficient).toBeGreaterThan(0)
    expect(told.coefficient).toBeLessThan(1)
    told.channel.abort(new Error('gone'))
    const again = await follow(attacker, 'coefficient', 5)
    expect(again.round).toBe(told.round)
    expect(again.coefficient).toBe(told.coefficient)
    again.channel.abort(new Error('gone'))
    await isOver(again.round)

    while (over < ROUNDS - 1) {
      const { channel, round } = await follow(attacker, 'gradient')
      channel.abort(new Error('gone'))
      await isOver(round)
    }
    expect(await training).toEqual(expected)
  })

  it('refuse a coefficient that is none', async () => {
    federation = await startFederation({ model: join(root, 'model'), clients: [{}], charter: { ...charter, roundDeadline: 500 } })
    const [client] = federation.clients
    for (const coefficient of [NaN, 0, -1, 1.5, Infinity]) {
      vi.spyOn(FederatedAdapters.prototype, 'clippingCoefficient').mockResolvedValue(coefficient)
      await expect(client!.train({ data: data(0), rounds: 1, sequences: 2, packing: 'padded' })).rejects.toMatchObject({
        code: 'E_BAD_MESSAGE',
        message: expect.stringContaining(` ${coefficient}:`) as string
      })
      await vi.waitFor(() => {
        expect(federation.server.daemon.status().training).toMatchObject({ members: 0 })
      }, 10_000)
    }
    vi.restoreAllMocks()
    expect(await client!.train({ data: data(0), rounds: 1, sequences: 2, packing: 'padded' })).toHaveLength(1)
  })
})
