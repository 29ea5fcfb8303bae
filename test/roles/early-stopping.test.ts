import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { EventOf } from '../../src/api/operations.ts'
import { readPeftAdapter } from '../../src/model/checkpoint/peft.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { adapterTensors, startFederation, type TestClient, type TestFederation } from './helpers.ts'

type TrainEvent = EventOf<'train'>
type Evaluation = Extract<TrainEvent, { type: 'evaluation' }>

let root: string
let federation: TestFederation
/** Another of the same peers. */
let twin: TestFederation

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-early-'))
  await writeTinyModel(join(root, 'model'))
  await writeTinyData(join(root, 'train.jsonl'), 1)
  await writeTinyData(join(root, 'heldout.jsonl'), 2)
  const options = {
    model: join(root, 'model'), identities: 'early', charter: { loraTargets: ['q', 'v'] as const, loraR: 2, learningRate: 0.05 }
  }
  federation = await startFederation({ ...options, clients: [{}, {}] })
  twin = await startFederation({ ...options, clients: [{}] })
})

afterAll(async () => {
  await federation.stop()
  await twin.stop()
  await rm(root, { recursive: true, force: true })
})

async function trained (client: TestClient, parameters: object): Promise<TrainEvent[]> {
  const events: TrainEvent[] = []
  for await (const event of client.peer.events('train', { data: join(root, 'train.jsonl'), sequences: 4, ...parameters })) events.push(event as TrainEvent)
  return events
}

describe('training with data that is held out', { timeout: 60_000 }, () => {
  it('evaluates between rounds what an evaluation would, keeps the best adapters, and changes nothing of the training', async () => {
    const [client] = federation.clients
    const data = join(root, 'heldout.jsonl')
    const before = await client!.evaluate({ data })
    const events = await trained(client!, { rounds: 5, evalData: data, evalEvery: 2 })
    const evaluations = events.filter((event): event is Evaluation => event.type === 'evaluation')
    expect(evaluations.map(({ done }) => done)).toEqual([0, 2, 4, 5])
    const rounds = events.filter((event): event is Extract<TrainEvent, { type: 'round' }> => event.type === 'round')
    expect(rounds.map(({ gradientNorm }) => gradientNorm! > 0)).toEqual([true, true, true, true, true])
    expect(evaluations[0]!.loss).toBeCloseTo(before.loss, 5)
    const { loss } = await client!.evaluate({ data })
    expect(evaluations.at(-1)!.loss).toBeCloseTo(loss, 5)
    const best = evaluations.findLast((event) => event.best)!
    expect(events.at(-1)).toMatchObject({
      type: 'done', rounds: 5, stoppedEarly: false, best: { done: best.done, loss: best.loss }, run: join(best.kept!, '..')
    })

    await trained(twin.clients[0]!, { rounds: best.done })
    expect(adapterTensors(await readPeftAdapter(best.kept!))).toEqual(adapterTensors(await twin.clients[0]!.export(twin.path('best'))))
    await trained(twin.clients[0]!, { rounds: 5 })
    expect(adapterTensors(await client!.export(federation.path('last')))).toEqual(adapterTensors(await twin.clients[0]!.export(twin.path('last'))))
  })

  it('leaves no round to the others', async () => {
    const [client, other] = federation.clients
    const [events] = await Promise.all([
      trained(client!, { rounds: 6, fresh: true, seed: 1, evalData: join(root, 'heldout.jsonl'), evalEvery: 1 }),
      trained(other!, { rounds: 6, fresh: true, seed: 1 })
    ])
    const rounds = events.filter((event) => event.type === 'round')
    expect(rounds.map(({ leftOut }) => leftOut)).toEqual(Array.from({ length: 6 }, () => false))
    expect(rounds.map(({ round }) => round - rounds[0]!.round)).toEqual([0, 1, 2, 3, 4, 5])
  })

  it('ends when evaluations bring nothing, and then no round waits for the client', async () => {
    const [client, other] = federation.clients
    // What is held out cannot be learnt from the training data: with so large a step the loss soon rises.
    const events = await trained(client!, { rounds: 200, fresh: true, evalData: join(root, 'heldout.jsonl'), evalEvery: 1, patience: 2 })
    const evaluations = events.filter((event): event is Evaluation => event.type === 'evaluation')
    expect(events.at(-1)).toMatchObject({ type: 'done', stoppedEarly: true })
    expect(evaluations.slice(-2).map(({ best }) => best)).toEqual([false, false])
    const rounds = (await trained(other!, { rounds: 2 })).filter((event) => event.type === 'round')
    expect(rounds).toMatchObject([{ members: 1 }, { members: 1 }])
  })

  it('has as many rounds as passes over the data take', async () => {
    const events = await trained(twin.clients[0]!, { epochs: 2, fresh: true, seed: 3, packing: 'padded' })
    // 12 records, 4 a round.
    expect(events.filter(({ type }) => type === 'round')).toHaveLength(6)
  })
})
