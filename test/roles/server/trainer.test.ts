import { afterEach, describe, expect, it, vi } from 'vitest'
import type { Charter } from '../../../src/protocols/charter/schema.ts'
import type { ServerMessage, TrainServerChannel } from '../../../src/protocols/train/messages.ts'
import type { FederatedAdapters } from '../../../src/roles/server/adapters.ts'
import type { Timer } from '../../../src/roles/server/barrier.ts'
import type { Middle } from '../../../src/roles/server/middle.ts'
import type { Round } from '../../../src/roles/server/round.ts'
import type { Commit, TrainingState } from '../../../src/roles/server/state.ts'
import { Trainer } from '../../../src/roles/server/trainer.ts'

const span = { first: 1, end: 2 }

/** What a client is told, as the server's side of its stream sees it. */
function stream (): { readonly channel: TrainServerChannel, readonly told: string[] } {
  const told: string[] = []
  const send = async ({ kind }: ServerMessage): Promise<void> => { told.push(kind.case === 'step' && kind.value.leftOut ? 'left out' : kind.case ?? '') }
  return { channel: { send, abort: () => {} } as unknown as TrainServerChannel, told }
}

/** Deadlines that pass when a test says so. */
function manualTimer (): Timer & { readonly expire: () => void } {
  const pending = new Set<() => void>()
  return {
    after (_delayMs, callback) {
      pending.add(callback)
      return () => { pending.delete(callback) }
    },
    expire () { for (const callback of [...pending]) callback() }
  }
}

const stopping: AbortController[] = []
afterEach(() => { for (const controller of stopping.splice(0)) controller.abort() })

/** A trainer at work, whose model computes nothing and whose disk is `commit`. */
function training (charter: { minClients: number, strategy?: Charter['strategy'] }, commit: (step: Commit) => Promise<void> = async () => {}) {
  const timer = manualTimer()
  const state = {
    round: 0,
    lastTurn: undefined as string | undefined,
    members: [],
    async commit (step: Commit) {
      await commit(step)
      Object.assign(state, { round: step.round, lastTurn: step.lastTurn })
    }
  }
  const middle = {
    forward: async (passengers: ReadonlyArray<{ id: string }>) => ({
      hidden: new Map(passengers.map(({ id }) => [id, []])),
      adapterGradients: new Map(),
      backward: async (answers: ReadonlyMap<string, unknown>) => new Map([...answers.keys()].map((peer) => [peer, []])),
      free: () => {}
    })
  }
  const adapters = {
    step: async () => ({ scale: 1, for: () => ({ names: [], tensors: [] }), tensors: new Map(), unaveragedTokens: {} }),
    areFinite: async () => true,
    revert: vi.fn(async () => {})
  }
  const trainer = new Trainer({
    charter: { strategy: charter.strategy ?? 'client-batch', limits: { maxClients: 8 }, training: { minClients: charter.minClients, roundDeadlineMs: 1000 } } as Charter,
    middle: middle as unknown as Middle,
    adapters: adapters as unknown as FederatedAdapters,
    state: state as unknown as TrainingState,
    logger: { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} },
    timer
  })
  const controller = new AbortController()
  stopping.push(controller)
  const ended = trainer.run(controller.signal)
  return { trainer, timer, state, adapters, stop: async () => { controller.abort(); await ended } }
}

/** The round with this number, once it has begun. */
async function begun (trainer: Trainer, number: number): Promise<Round> {
  return await vi.waitFor(() => {
    if (trainer.current?.number !== number) throw new Error(`round ${number} has not begun`)
    return trainer.current
  })
}

/** Sees a round through for these peers. */
async function answer (round: Round, peers: readonly string[]): Promise<void> {
  for (const peer of peers) round.forward.answer(peer, { lengths: [1], tensors: [] })
  const backward = await vi.waitFor(() => round.backward ?? expect.fail())
  for (const peer of peers) backward.answer(peer, { tokens: 1, tensors: [] })
  const contribution = await vi.waitFor(() => round.contribution ?? expect.fail())
  for (const peer of peers) contribution.answer(peer, new Map())
}

describe('Trainer', () => {
  it('tells of a step on the stream that a client has when it is durable', async () => {
    const { promise: written, resolve: write } = Promise.withResolvers<void>()
    const { trainer } = training({ minClients: 1 }, async () => { await written })
    const [before, after] = [stream(), stream()]
    trainer.members.enlist('a', span, before.channel)
    await answer(await begun(trainer, 0), ['a'])
    trainer.members.enlist('a', span, after.channel)
    write()
    await vi.waitFor(() => { expect(after.told).toContain('step') })
    expect(before.told).not.toContain('step')
  })

  it('leaves out a client that misses the deadline, tells it, and goes on without it until it enlists again', async () => {
    const { trainer, timer } = training({ minClients: 1 })
    const [a, b] = [stream(), stream()]
    trainer.members.enlist('a', span, a.channel)
    trainer.members.enlist('b', span, b.channel)
    const first = await begun(trainer, 0)
    first.forward.answer('a', { lengths: [1], tensors: [] })
    timer.expire()
    await answer(first, ['a'])
    const second = await begun(trainer, 1)
    expect([a.told.includes('step'), b.told.includes('left out')]).toEqual([true, true])
    expect(second.participants).toEqual(['a'])
    trainer.members.enlist('b', span, b.channel)
    await answer(second, ['a'])
    expect((await begun(trainer, 2)).participants).toEqual(['a', 'b'])
  })

  it('goes on without a client that leaves, which has no part in that round even when it comes back', async () => {
    const { trainer } = training({ minClients: 1 })
    const [a, b] = [stream(), stream()]
    trainer.members.enlist('a', span, a.channel)
    trainer.members.enlist('b', span, b.channel)
    const round = await begun(trainer, 0)
    trainer.withdraw('b')
    trainer.members.enlist('b', span, b.channel)
    trainer.begin('b', round)
    expect(b.told.at(-1)).toBe('waiting')
    await answer(round, ['a'])
    expect((await begun(trainer, 1)).participants).toEqual(['a', 'b'])
    expect(b.told).toContain('step')
    expect(b.told).not.toContain('left out')
  })

  it('does not wait for a client that leaves while its rows are in the middle', async () => {
    const { trainer } = training({ minClients: 1 })
    for (const peer of ['a', 'b']) trainer.members.enlist(peer, span, stream().channel)
    const round = await begun(trainer, 0)
    for (const peer of ['a', 'b']) round.forward.answer(peer, { lengths: [1], tensors: [] })
    trainer.withdraw('b')
    const backward = await vi.waitFor(() => round.backward ?? expect.fail())
    expect(backward.missing).toEqual(['a'])
    backward.answer('a', { tokens: 1, tensors: [] })
    trainer.withdraw('a')
    const contribution = await vi.waitFor(() => round.contribution ?? expect.fail())
    expect(contribution.missing).toEqual([])
  })

  it('stops at once while rows are in the middle', async () => {
    const { trainer, stop, state } = training({ minClients: 1 })
    trainer.members.enlist('a', span, stream().channel)
    const round = await begun(trainer, 0)
    round.forward.answer('a', { lengths: [1], tensors: [] })
    await stop()
    expect(state.round).toBe(0)
  })

  it('undoes a step that cannot be written, and tries the round again', async () => {
    let failures = 0
    const { trainer, adapters, state } = training({ minClients: 1 }, async () => { if (failures++ === 0) throw new Error('the disk is full') })
    const a = stream()
    trainer.members.enlist('a', span, a.channel)
    const first = await begun(trainer, 0)
    await answer(first, ['a'])
    await vi.waitFor(() => { expect(a.told).toContain('withdrawn') })
    expect(adapters.revert).toHaveBeenCalledOnce()
    expect(a.told).not.toContain('step')
    trainer.members.enlist('a', span, a.channel)
    const again = await vi.waitFor(() => trainer.current === undefined || trainer.current === first ? expect.fail() : trainer.current, { timeout: 5_000 })
    expect(again.number).toBe(0)
    await answer(again, ['a'])
    await vi.waitFor(() => { expect(state.round).toBe(1) })
  })

  it('lets members go on in turn when one is done', async () => {
    const { trainer } = training({ minClients: 2, strategy: 'sequential' })
    for (const peer of ['a', 'b']) trainer.members.enlist(peer, span, stream().channel)
    const first = await begun(trainer, 0)
    expect(first.participants).toEqual(['a'])
    await answer(first, ['a'])
    trainer.withdraw('a')
    const second = await begun(trainer, 1)
    await answer(second, ['b'])
    expect((await begun(trainer, 2)).participants).toEqual(['b'])
  })
})
