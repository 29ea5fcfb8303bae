import { afterEach, describe, expect, it, vi } from 'vitest'
import { SECURE_CONTRIBUTORS } from '../../../../src/protocols/charter/constants.ts'
import { SecureContributions } from '../../../../src/roles/client/training/secure-contributions.ts'
import { MAX_ATTEMPTS, MAX_CONTRIBUTORS, MIN_CONTRIBUTORS } from '../../../../src/roles/training/aggregation/secure/constants.ts'
import { cohortsOf } from '../../../../src/roles/training/aggregation/secure/exchange.ts'
import type { SecureReply, SecureRequest, SecureStep } from '../../../../src/roles/training/aggregation/secure/messages.ts'
import { AllMembers } from '../../../../src/roles/training/aggregation/sequential.ts'
import type { AggregationStrategy } from '../../../../src/roles/training/aggregation/strategy.ts'
import { Coordinator } from '../../../../src/roles/training/coordinator.ts'
import type { Begin, PassId } from '../../../../src/roles/training/participant.ts'
import type { AcceptedUpdate } from '../../../../src/roles/training/update.ts'
import { FakeClock } from '../fake-clock.ts'
import { MemoryParticipant, MemoryState } from '../memory.ts'
import { Identities, named } from './exchange.ts'

const DEADLINE_MS = 1000
const SHAPES = [{ name: '0.a', shape: [2, 2] }, { name: '4.b', shape: [3] }]
const federation = 'ab'.repeat(32)

const stopping: AbortController[] = []
afterEach(() => {
  for (const controller of stopping.splice(0)) controller.abort()
})

/** Waits for as long as a busy machine may take. */
async function eventually (check: () => void): Promise<void> {
  await vi.waitFor(check, { timeout: 15_000 })
}

/** The steps that a client was asked for in its first round, which ended with this one. */
function askedUntil (client: SecureParticipant, last: string): string[] {
  expect(client.asked).toContain(last)
  return client.asked.slice(0, client.asked.indexOf(last))
}

/** What a client in memory adds to each round: its number, in every place. */
class SecureParticipant extends MemoryParticipant {
  /** Steps of attempts that this client does not answer, such as `mask 0`. */
  readonly silent = new Set<string>()
  /** Steps that it was asked for. */
  readonly asked: string[] = []
  readonly notices: string[] = []
  revealed = 0
  readonly #coordinator: Coordinator
  readonly #passes: number
  readonly sums: SecureContributions
  readonly #adds: number

  constructor (coordinator: Coordinator, identities: Identities, peer: string, adds: number, passes = 1) {
    super(peer)
    this.#coordinator = coordinator
    this.#passes = passes
    this.#adds = adds
    this.sums = new SecureContributions({
      federation,
      minContributors: MIN_CONTRIBUTORS,
      signer: identities.signer(peer),
      verify: identities.verify,
      known: undefined,
      noteReveal: async () => { this.revealed++ },
      notify: (notice) => { this.notices.push(notice) }
    })
  }

  override begin (begin: Begin): void {
    super.begin(begin)
    this.sums.forget()
    this.#later(() => {
      // A client that comes back is answered as before, until it has something to add again.
      if (this.#coordinator.current?.forward.add(this.peer, { lengths: [1], tensors: [] }) === false) this.#offer(begin.round)
    })
  }

  override hidden (pass: PassId): void {
    this.#later(() => this.#coordinator.current?.backward?.add(this.peer, { tokens: 1, tensors: [] }))
    if (pass.pass === this.#passes - 1) this.#offer(pass.round)
  }

  override gradient (pass: PassId): void {
    if (pass.pass < this.#passes - 1)
      this.#later(() => this.#coordinator.current?.forward.add(this.peer, { lengths: [1], tensors: [] }))
  }

  override secure (place: { round: number, attempt: number }, request: SecureRequest): void {
    const step = `${request.step} ${place.attempt}`
    this.asked.push(step)
    if (this.silent.has(step)) return
    void this.sums.answer(place, request).then((reply) => { this.reply(place.attempt, reply) })
  }

  reply (attempt: number, reply: SecureReply | undefined): void {
    if (reply !== undefined) this.#coordinator.current?.addSecure(this.peer, attempt, reply)
  }

  #offer (round: number): void {
    const early = this.sums.offer(round, new Float32Array(7).fill(this.#adds))
    if (early !== undefined) this.secure(early.place, early.request)
  }

  #later (reply: () => void): void {
    queueMicrotask(reply)
  }
}

function training (passes = 1) {
  const clock = new FakeClock()
  const state = new MemoryState()
  const identities = new Identities()
  const steps: AcceptedUpdate[][] = []
  const strategy = {
    selection: new AllMembers(MIN_CONTRIBUTORS),
    collectsNorms: false,
    expectedFrom: () => SHAPES,
    stateFor: () => ({ names: [], tensors: [] }),
    committed: async () => ({ round: state.round, names: [], tensors: [] }),
    clippingCoefficient: async () => 1,
    step: async (_round, _gradients, accepted) => {
      steps.push([...accepted])
      return { scale: 1, for: () => ({ names: [], tensors: [] }), tensors: new Map(), unaveragedTokens: {} }
    },
    isSummable: async () => true,
    revert: async () => {}
  } satisfies AggregationStrategy
  const coordinator = new Coordinator({
    plan: {
      strategy: 'client-batch',
      ends: { mode: 'shared' },
      limits: { maxClients: 200 },
      model: { blocks: 5 },
      partitions: { inputBlocks: { max: 1 }, outputBlocks: { max: 1 } },
      training: {
        optimizer: { learningRate: 1e-3 },
        schedule: { name: 'constant', warmupRounds: 0, totalRounds: 1 },
        minClients: MIN_CONTRIBUTORS,
        roundDeadlineMs: DEADLINE_MS,
        gradientAccumulationSteps: passes,
        maxGradientNorm: null,
        gradientNormScope: 'party'
      }
    },
    stage: {
      gradientSum: () => ({ gradients: new Map(), add: async () => {}, [Symbol.dispose]: () => {} }),
      forward: async (items) => ({
        hidden: new Map(items.map(({ id }) => [id, []])),
        adapterGradients: new Map(),
        takeGradients: () => new Map(),
        backward: async (replies) => new Map([...replies.keys()].map((peer) => [peer, []])),
        free: () => {}
      })
    },
    strategy,
    state,
    logger: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} },
    clock,
    secure: { federation, minContributors: MIN_CONTRIBUTORS, verify: identities.verify }
  })
  const controller = new AbortController()
  stopping.push(controller)
  const enlist = async (...clients: SecureParticipant[]): Promise<void> => {
    for (const client of clients) await coordinator.enlist(client, 0)
  }
  /** Resolves when the round waits for these clients alone. */
  const waiting = async (...clients: SecureParticipant[]): Promise<void> => {
    await eventually(() => {
      expect(clients.every((client) => client.asked.some((step) => client.silent.has(step)))).toBe(true)
      expect(coordinator.current?.waitingFor).toEqual(clients.map(({ peer }) => peer))
    })
  }
  return {
    coordinator,
    clock,
    state,
    steps,
    waiting,
    /** Lets the time of these clients run out. */
    lose: async (...clients: SecureParticipant[]) => {
      await waiting(...clients)
      clock.advance(DEADLINE_MS)
    },
    clients: (count: number) => named(count).map((peer, index) => new SecureParticipant(coordinator, identities, peer, 2 ** index, passes)),
    /** Runs rounds with these clients from the first on, which all of them are in. */
    run: async (...clients: SecureParticipant[]) => {
      await enlist(...clients)
      void coordinator.run(controller.signal)
    },
    enlist
  }
}

/** The sum of the first step. Its bits say whose contributions are in it. */
function sumOf ([accepted]: AcceptedUpdate[][]): number {
  const sums = accepted!.map(({ contribution }) => contribution).filter(({ size }) => size > 0)
  expect(sums).toHaveLength(1)
  expect([...sums[0]!].map(([name, { shape }]) => ({ name, shape }))).toEqual(SHAPES)
  const values = [...sums[0]!.values()].flatMap(({ data }) => [...data as Float32Array])
  expect(new Set(values).size).toBe(1)
  return values[0]!
}

describe('a round with a secure sum', () => {
  it('steps with the sum of what its clients add', async () => {
    const { clients, run, steps } = training()
    const all = clients(5)
    await run(...all)
    await eventually(() => { expect(steps.length).toBeGreaterThan(0) })
    expect(sumOf(steps)).toBe(0b11111)
    expect(steps[0]!.map(({ peer }) => peer)).toEqual(all.map(({ peer }) => peer))
    expect(all[0]!.notices[0]).toContain(all[4]!.peer)
  })

  it.each(['advertise', 'share', 'mask'] satisfies SecureStep[])('goes on without a client that is lost before it answers %s', async (step) => {
    const { clients, run, steps, lose } = training()
    const all = clients(6)
    all[2]!.silent.add(`${step} 0`)
    await run(...all)
    await lose(all[2]!)
    await eventually(() => { expect(steps.length).toBeGreaterThan(0) })
    expect(sumOf(steps)).toBe(0b111011)
    expect(steps[0]!.map(({ peer }) => peer)).not.toContain(all[2]!.peer)
    expect(all[2]!.told).toContain('left out')
  })

  it.each(['confirm', 'reveal'] satisfies SecureStep[])('keeps the work of a client that is lost before it answers %s', async (step) => {
    const { clients, run, steps, lose } = training()
    const all = clients(6)
    all[2]!.silent.add(`${step} 0`)
    await run(...all)
    await lose(all[2]!)
    await eventually(() => { expect(steps.length).toBeGreaterThan(0) })
    expect(sumOf(steps)).toBe(0b111111)
    expect(all[2]!.told).not.toContain('left out')
  })

  it.each(['share', 'mask', 'confirm'] satisfies SecureStep[])('begins anew with fresh keys where too many are lost before they answer %s', async (step) => {
    const { clients, run, steps, clock, enlist, waiting } = training()
    const all = clients(6)
    const gone = all.slice(0, 3)
    for (const client of gone) client.silent.add(`${step} 0`)
    await run(...all)
    await waiting(...gone)
    // They come back at once, having lost their keys: the attempt is over for them, and the next one has them.
    for (const client of gone) client.sums.forget()
    await enlist(...gone)
    await eventually(() => { expect(steps.length).toBeGreaterThan(0) })
    expect(sumOf(steps)).toBe(0b111111)
    expect(clock.now()).toBe(0)
    for (const client of all) expect(askedUntil(client, 'reveal 1')).not.toContain('reveal 0')
  })

  it('does a round again with other batches where too few reveal their shares, and nobody adds the same twice', async () => {
    const { clients, run, steps, lose, state } = training()
    const all = clients(6)
    for (const client of all.slice(0, 3)) client.silent.add('reveal 0')
    await run(...all)
    await lose(...all.slice(0, 3))
    await eventually(() => { expect(all[5]!.told).toContain('dismissed') })
    expect([steps.length, state.round]).toEqual([0, 0])
    expect(all.map(({ revealed }) => revealed)).toEqual([0, 0, 0, 1, 1, 1])
    // Who revealed shares has nothing to add any more until it has another contribution.
    expect(await all[5]!.sums.answer({ round: 0, attempt: 1 }, { step: 'advertise', values: 7 })).toBeUndefined()
    expect(await all[0]!.sums.answer({ round: 0, attempt: 1 }, { step: 'advertise', values: 7 })).toBeDefined()
  })

  it('restarts the passes where a client is lost whose work is in an earlier one', async () => {
    const { clients, run, steps, lose } = training(2)
    const all = clients(6)
    all[2]!.silent.add('mask 0')
    await run(...all)
    await lose(all[2]!)
    await eventually(() => { expect(steps.length).toBeGreaterThan(0) })
    expect(sumOf(steps)).toBe(0b111011)
    expect(all[0]!.told.filter((told) => told === 'begin').length).toBeGreaterThan(1)
    expect(askedUntil(all[0]!, 'reveal 1')).not.toContain('confirm 0')
  })

  it('ends without a step after a few attempts', async () => {
    const { clients, run, steps, lose, clock } = training()
    const all = clients(3)
    for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) all[1]!.silent.add(`share ${attempt}`)
    await run(...all)
    await lose(all[1]!)
    await eventually(() => {
      clock.advance(1)
      expect(all[0]!.told).toContain('dismissed')
    })
    expect(all[0]!.asked.some((step) => step.startsWith('mask'))).toBe(false)
    expect(steps).toEqual([])
  })

  it('takes no reply of another attempt or step', async () => {
    const { clients, run, coordinator, waiting } = training()
    const all = clients(3)
    all[0]!.silent.add('share 0')
    await run(...all)
    await waiting(all[0]!)
    const round = coordinator.current!
    expect(round.addSecure(all[0]!.peer, 1, { step: 'share', boxes: [] })).toBe(false)
    expect(round.addSecure(all[0]!.peer, 0, { step: 'reveal', shares: [] })).toBe(false)
    expect(round.addSecure('nobody', 0, { step: 'share', boxes: [] })).toBe(false)
  })
})

it('has as few sums as there have to be, of which each is large', () => {
  expect(cohortsOf(named(MAX_CONTRIBUTORS)).map(({ length }) => length)).toEqual([MAX_CONTRIBUTORS])
  expect(cohortsOf(named(MAX_CONTRIBUTORS + 1)).map(({ length }) => length)).toEqual([64, 65])
  expect(cohortsOf(named(1000)).flat()).toEqual(named(1000))
})

it('has the bounds that the charter has', () => {
  expect(SECURE_CONTRIBUTORS).toEqual({ least: MIN_CONTRIBUTORS, most: MAX_CONTRIBUTORS })
})
