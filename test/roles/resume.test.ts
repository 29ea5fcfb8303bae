import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { readSnapshot } from '../../src/model/checkpoint/snapshot.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { updateConfig } from '../../src/node/home/settings.ts'
import { AdapterState } from '../../src/roles/client/training/adapter-state.ts'
import { ClientRound } from '../../src/roles/client/training/client-round.ts'
import type { ProgressMeta, Run } from '../../src/roles/client/training/progress.ts'
import { CoordinatorState, type Commit } from '../../src/roles/training/coordinator-state.ts'
import { bytesOf } from '../../src/tensor.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { startFederation, type ClientOptions, type RoundEvent, type TestClient, type TestFederation, type TestPeer } from './helpers.ts'

type TrainEvent = Partial<Omit<RoundEvent, 'type'>> & {
  readonly type: string,
  readonly reason?: string,
  readonly done?: number,
  readonly resumedFrom?: number
}

let root: string
const federations: TestFederation[] = []
const undo: Array<() => void> = []

beforeEach(async () => {
  root = await temporaryDirectory()
  await writeTinyModel(join(root, 'model'))
  for (const index of [0, 1]) await writeTinyData(data(index), index + 1)
})

afterEach(async () => {
  for (const restore of undo.splice(0)) restore()
  for (const federation of federations.splice(0)) await federation.stop()
})

function data (client: number): string {
  return join(root, `client-${client}.jsonl`)
}

async function start (clients: readonly ClientOptions[], charter: Partial<CreateOptions> = {}): Promise<TestFederation> {
  const federation = await startFederation({
    model: join(root, 'model'),
    clients,
    identities: 'resume',
    charter: { loraTargets: ['q', 'v'], loraR: 2, learningRate: 1e-2, ...charter }
  })
  federations.push(federation)
  return federation
}

/** Does something before each call of a method, which fails where that fails. */
function around (prototype: object, name: string, before: (this: never, ...args: unknown[]) => Promise<void>): void {
  const methods = prototype as Record<string, (...args: unknown[]) => Promise<unknown>>
  const original = methods[name]
  if (original === undefined) throw new Error(`there is no ${name}`)
  methods[name] = async function (this: unknown, ...args) {
    await before.apply(this as never, args)
    return await original.apply(this, args)
  }
  undo.push(() => { methods[name] = original })
}

/** Trains, tells every event, and returns them all. */
async function train (
  client: TestClient,
  index: number,
  rounds: number,
  onEvent: (event: TrainEvent) => void = () => {},
  signal?: AbortSignal
): Promise<TrainEvent[]> {
  const events: TrainEvent[] = []
  for await (const event of client.peer.events('train', { data: data(index), rounds, sequences: 2, packing: 'padded' }, signal)) {
    events.push(event as TrainEvent)
    onEvent(event as TrainEvent)
  }
  return events
}

/** Trains until this many rounds are done, and stops as Ctrl-C does. */
async function interrupted (client: TestClient, index: number, rounds: number, after: number): Promise<void> {
  const controller = new AbortController()
  await expect(train(client, index, rounds, ({ done = 0 }) => {
    if (done >= after) controller.abort()
  }, controller.signal)).rejects.toThrow()
}

/** What a peer has made durable, of the tensors with these names or of all, as text. */
async function durable ({ home }: TestPeer, names?: readonly string[]): Promise<Record<string, string>> {
  const snapshot = await readSnapshot(join(home, 'state', 'training.safetensors'))
  const tensors = [...snapshot?.tensors ?? []].filter(([name]) => names === undefined || names.includes(name)).sort(([a], [b]) =>
    a < b ? -1 : 1
  )
  return Object.fromEntries(tensors.map(([name, tensor]) => [name, Buffer.from(bytesOf(tensor)).toString('hex')]))
}

/** That a client's blocks and their optimiser's state are the federation's. */
async function expectInStep ({ server }: TestFederation, { peer }: TestClient): Promise<void> {
  const own = await durable(peer)
  expect(own).toEqual(await durable(server, Object.keys(own)))
}

describe('a client that stops and goes on', { timeout: 180_000 }, () => {
  const ROUNDS = 9

  it('ends with the parameters of one that never stopped, also when more rounds are asked for', async () => {
    const whole = await start([{}])
    await train(whole.clients[0]!, 0, ROUNDS)
    const expected = await durable(whole.server)

    const { server, clients: [client] } = await start([{}])
    await train(client!, 0, 2)
    await interrupted(client!, 0, ROUNDS, 5)
    const events = await train(client!, 0, ROUNDS)
    expect(events[0]).toMatchObject({ type: 'start', rounds: ROUNDS, resumedFrom: expect.any(Number) as number })
    expect(events.at(-1)).toMatchObject({ type: 'done' })
    expect(await durable(server)).toEqual(expected)
  })

  it('does not hold up the others, and takes its place again', async () => {
    const federation = await start([{}, {}])
    const [first, second] = federation.clients as [TestClient, TestClient]
    const others = train(first, 0, 12)
    await interrupted(second, 1, 12, 2)
    const events = await others
    expect(events.filter(({ type }) => type === 'round')).toHaveLength(12)
    expect(events.some(({ leftOut }) => leftOut)).toBe(false)
    expect((await train(second, 1, 5)).at(-1)).toMatchObject({ type: 'done' })
    await expectInStep(federation, second)
  })

  it('can go on with other data', async () => {
    const federation = await start([{}])
    const client = federation.clients[0] as TestClient
    await interrupted(client, 0, 5, 2)
    const events = await train(client, 1, 3)
    expect(events[0]).not.toHaveProperty('resumedFrom')
    expect(events.filter(({ type }) => type === 'round')).toHaveLength(3)
    await expectInStep(federation, client)
  })

  it('is refused a second training at the same time', async () => {
    const { clients: [client] } = await start([{}])
    let refused: Promise<unknown> | undefined
    await train(client!, 0, 4, ({ done }) => { if (done === 1) refused = train(client!, 0, 4).catch((error: unknown) => error) })
    expect(await refused).toMatchObject({ code: 'E_BUSY' })
  })
})

describe('a client that writes down where it stands', { timeout: 180_000 }, () => {
  it.each([[{ mode: 'shared' }], [{ mode: 'personal' }]] as const)(
    'computes the next round meanwhile, and hands that in when it is done (%o)',
    async (ends) => {
      const { clients: [client] } = await start([{}], { ends })
      const { promise: computed, resolve: compute } = Promise.withResolvers<void>()
      const order: string[] = []
      let passes = 0
      around(ClientRound.prototype, 'finish', async () => {
        if (++passes === 2) compute()
      })
      around(AdapterState.prototype, 'commit', async (meta) => {
        if ((meta as ProgressMeta).run?.done !== 1 || order.length > 0) return
        await computed
        // Time for the client to hand its work in, if it did not wait.
        await delay(100)
        order.push('written')
      })
      around(AdapterState.prototype, ends.mode === 'shared' ? 'download' : 'prepare', async () => {
        if (passes === 2) order.push('handed in')
      })
      await train(client!, 0, 2)
      expect(order).toEqual(['written', 'handed in'])
    }
  )

  it.each([{ mode: 'shared' }, { mode: 'personal' }] as const)(
    'stops with the reason when its disk is full, and goes on when there is room, with $mode ends',
    async (ends) => {
      const federation = await start([{}], { ends })
      const client = federation.clients[0]!
      let full = true
      around(AdapterState.prototype, 'commit', async (meta) => {
        if (full && ((meta as ProgressMeta).run as Run).done === 2)
          throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC', errno: -28, syscall: 'write' })
      })
      let handedIn = 0
      around(AdapterState.prototype, ends.mode === 'shared' ? 'download' : 'prepare', async () => { handedIn++ })
      await expect(train(client, 0, 3)).rejects.toMatchObject({ code: 'E_FILE' })
      expect(handedIn).toBeLessThan(4)
      full = false
      const events = await train(client, 0, 3)
      expect(events.filter(({ type, leftOut }) => type === 'round' && leftOut === false).length).toBeGreaterThan(0)
      if (ends.mode === 'shared') await expectInStep(federation, client)
    }
  )

  it('stops at a defect, which another try would meet again', async () => {
    const { clients: [client] } = await start([{}])
    around(AdapterState.prototype, 'download', async () => { throw new ReferenceError('a name is not defined') })
    await expect(train(client!, 0, 1)).rejects.toMatchObject({ code: 'E_INTERNAL' })
  })
})

describe('a client that is late', { timeout: 180_000 }, () => {
  it('is left out of the round that it misses, is told so, and comes back in the next', async () => {
    const federation = await start([{}, { inputBlocks: 2 }], { minClients: 2, roundDeadline: 1_500 })
    const [first, second] = federation.clients as [TestClient, TestClient]
    let late = false
    around(ClientRound.prototype, 'forward', async function (this: ClientRound) {
      if (this.round !== 5 || late) return
      late = true
      await delay(4_000)
    })
    const both = await Promise.all([train(first, 0, 10), train(second, 1, 10)])
    const leftOut = both.map((events) => events.filter((event) => event.leftOut).map(({ round }) => round))
    expect(leftOut.sort((a, b) => a.length - b.length)).toEqual([[], [5]])
    for (const events of both) expect(events.filter((event) => event.type === 'round' && event.leftOut === false)).toHaveLength(10)
    await Promise.all([train(first, 0, 11), train(second, 1, 11)])
  })

  it.each([[{ mode: 'shared' }], [{ mode: 'average', every: 2 }]] as const)(
    'gets the state that it missed when it joins late (%o)',
    async (ends) => {
      const federation = await start([{}], { ends })
      const first = federation.clients[0] as TestClient
      await train(first, 0, 4)
      const second = await federation.join('late', {})
      await train(second, 1, 2)
      await train(first, 0, 6)
      await train(second, 1, 4)
      if (ends.mode === 'shared') await expectInStep(federation, second)
      const average = await durable(federation.server)
      const own = await durable(second.peer)
      const name = Object.keys(own).find((name) => name.endsWith('lora_A')) as string
      expect(own[name]).toBe(average[ends.mode === 'average' ? `average/${name}` : name])
    }
  )
})

describe('a client that has trained', { timeout: 180_000 }, () => {
  it('does not start with another partition, and starts with its own again', async () => {
    const federation = await start([{}])
    const { peer } = federation.clients[0] as TestClient
    await train(federation.clients[0] as TestClient, 0, 2)
    await peer.stop()
    await updateConfig(homeAt(peer.home), { inputBlocks: 2 })
    const refused = expect(peer.start()).rejects
    await refused.toMatchObject({ code: 'E_STATE' })
    await refused.toThrow(/trained with 1 input and 1 output blocks.* say 2 and 1/)
    await updateConfig(homeAt(peer.home), { inputBlocks: 1 })
    await peer.start()
    expect((await train(federation.clients[0] as TestClient, 0, 3)).filter(({ type }) => type === 'round').map(({ round }) => round))
      .toEqual([2])
  })
})

describe('a server that stops', { timeout: 180_000 }, () => {
  it('says so to its clients, who wait for it and go on when it is back', async () => {
    const federation = await start([{}])
    const client = federation.clients[0] as TestClient
    let restarted: Promise<void> | undefined
    const events = await train(client, 0, 8, ({ done }) => {
      if (done === 3) restarted ??= federation.server.stop().then(async () => { await federation.server.start() })
    })
    await restarted
    expect(events.some(({ type, reason }) => type === 'waiting' && reason?.includes('the server is stopping') === true)).toBe(true)
    expect(events.filter(({ type }) => type === 'round').map(({ round }) => round)).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
    await expectInStep(federation, client)
  })

  it('takes a step again that it could not write, from where the round began', async () => {
    const whole = await start([{}])
    await train(whole.clients[0]!, 0, 4)
    const expected = await durable(whole.server)

    const { server, clients: [client] } = await start([{}])
    const failed = new Set<number>()
    around(CoordinatorState.prototype, 'commit', async (step) => {
      const { round } = step as Commit
      if (round === 2 || failed.has(round)) return
      failed.add(round)
      throw new Error('the disk is full')
    })
    await train(client!, 0, 4)
    expect(failed).toEqual(new Set([1, 3, 4]))
    expect(await durable(server)).toEqual(expected)
  })
})
