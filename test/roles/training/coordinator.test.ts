import { afterEach, describe, expect, it, vi } from 'vitest'
import type { DeviceTensor } from '../../../src/model/runtime/device.ts'
import { AllMembers, Sequential } from '../../../src/roles/training/aggregation/sequential.ts'
import type { AggregationStrategy } from '../../../src/roles/training/aggregation/strategy.ts'
import type { Commit } from '../../../src/roles/training/coordinator-state.ts'
import { Coordinator } from '../../../src/roles/training/coordinator.ts'
import type { TrainingStage } from '../../../src/roles/training/participant.ts'
import type { Round } from '../../../src/roles/training/round.ts'
import type { AcceptedUpdate } from '../../../src/roles/training/update.ts'
import { FakeClock } from './fake-clock.ts'
import { MemoryParticipant, MemoryState } from './memory.ts'

const DEADLINE_MS = 1000

const stopping: AbortController[] = []
afterEach(() => {
  for (const controller of stopping.splice(0)) controller.abort()
})

/** What gradients may sum up to. */
const GREATEST_NORM = 12

/** A gradient whose norm is its handle's number. */
const gradientOf = (norm: number): DeviceTensor => ({ id: norm, dtype: 'float32', shape: [] })

/** A coordinator at work, whose model computes nothing, whose disk is `write` and whose clients' gradients have these norms. */
function training (
  plan: { minClients: number, strategy?: 'client-batch' | 'sequential', passes?: number, clipsTogether?: boolean },
  write: (step: Commit) => Promise<void> = async () => {},
  norms: Readonly<Record<string, number>> = {}
) {
  const clock = new FakeClock()
  const state = new MemoryState(write)
  /** What the middle was asked to do, in order. */
  const calls: string[] = []
  const stage: TrainingStage = {
    gradientSum: () => ({
      gradients: new Map(),
      add: async () => {
        calls.push('add')
      },
      [Symbol.dispose]: () => {
        calls.push('dispose')
      }
    }),
    forward: async (items, seed) => {
      calls.push(`forward ${items.map(({ id }) => id).join()} ${seed.dropoutSeed}`)
      return {
        hidden: new Map(items.map(({ id }) => [id, []])),
        adapterGradients: new Map([['norm', gradientOf(items.reduce((sum, { id }) => sum + (norms[id] ?? 0), 0))]]),
        takeGradients: () => new Map(),
        backward: async (replies) => new Map([...replies.keys()].map((peer) => [peer, []])),
        free: () => {
          calls.push('free')
        }
      }
    }
  }
  const steps: Array<ReadonlyArray<Pick<AcceptedUpdate, 'peer' | 'tokens'>>> = []
  /** What was multiplied with in each step, where clients had been told. */
  const coefficients: Array<number | undefined> = []
  const strategy = {
    selection: plan.strategy === 'sequential' ? new Sequential(plan.minClients) : new AllMembers(plan.minClients),
    collectsNorms: plan.clipsTogether === true,
    expectedFrom: () => [],
    stateFor: () => ({ names: [], tensors: [] }),
    committed: async () => ({ round: state.round, names: [], tensors: [] }),
    clippingCoefficient: async (_gradients, updates) => 1 / updates.reduce((sum, { norm }) => sum + norm, 0),
    step: async (_round, _gradients, accepted, coefficient) => {
      coefficients.push(coefficient)
      steps.push(accepted.map(({ peer, tokens }) => ({ peer, tokens })))
      return { scale: 1, for: () => ({ names: [], tensors: [] }), tensors: new Map(), unaveragedTokens: {} }
    },
    isSummable: async (gradients, parts) => (gradients.get('norm')?.id ?? 0) * parts <= GREATEST_NORM,
    revert: vi.fn(async () => {})
  } satisfies AggregationStrategy
  const [info, warn] = [vi.fn(), vi.fn()]
  const trainer = new Coordinator({
    plan: {
      strategy: plan.strategy ?? 'client-batch',
      ends: { mode: 'personal' },
      limits: { maxClients: 8 },
      model: { blocks: 4 },
      partitions: { inputBlocks: { max: 1 }, outputBlocks: { max: 1 } },
      training: {
        optimizer: { learningRate: 1e-3 },
        schedule: { name: 'constant', warmupRounds: 0, totalRounds: 1 },
        minClients: plan.minClients,
        roundDeadlineMs: DEADLINE_MS,
        gradientAccumulationSteps: plan.passes ?? 1,
        maxGradientNorm: 1,
        gradientNormScope: plan.clipsTogether === true ? 'global' : 'party'
      }
    },
    stage,
    strategy,
    state,
    logger: { debug: () => {}, info, warn, error: () => {} },
    clock
  })
  const controller = new AbortController()
  stopping.push(controller)
  const ended = trainer.run(controller.signal)
  return {
    trainer,
    clock,
    state,
    strategy,
    calls,
    steps,
    coefficients,
    info,
    warn,
    stop: async () => {
      controller.abort()
      await ended
    }
  }
}

/** Enlists new participants with these names. */
async function enlist<Peers extends readonly string[]> (
  trainer: Coordinator,
  ...peers: Peers
): Promise<{ [Index in keyof Peers]: MemoryParticipant }> {
  const participants = peers.map((peer) => new MemoryParticipant(peer))
  for (const participant of participants) await trainer.enlist(participant, 0)
  return participants as { [Index in keyof Peers]: MemoryParticipant }
}

/** The round with this number, once it has begun. */
async function begun (trainer: Coordinator, number: number): Promise<Round> {
  return await vi.waitFor(() => {
    if (trainer.current?.number !== number) throw new Error(`round ${number} has not begun`)
    return trainer.current
  })
}

/** Sees a pass of a round through for these peers; more may have been there before the gradients. */
async function answerPass (round: Round, pass: number, peers: readonly string[], before = peers): Promise<void> {
  const inPass = async <T>(get: () => T | undefined): Promise<T> =>
    await vi.waitFor(() => (round.pass === pass ? get() : undefined) ?? expect.fail())
  const forward = await inPass(() => round.forward)
  for (const peer of before) forward.add(peer, { lengths: [1], tensors: [] })
  const backward = await inPass(() => round.backward)
  for (const peer of peers) backward.add(peer, { tokens: pass + 1, tensors: [] })
}

/** Sees a round through for these peers. */
async function answer (round: Round, peers: readonly string[], passes = 1): Promise<void> {
  for (let pass = 0; pass < passes; pass++) await answerPass(round, pass, peers)
  const contribution = await vi.waitFor(() => round.contribution ?? expect.fail())
  for (const peer of peers) contribution.add(peer, new Map())
}

describe('Coordinator', () => {
  it('tells of a step on the stream that a client has when it is durable', async () => {
    const { promise: written, resolve: write } = Promise.withResolvers<void>()
    const { trainer } = training({ minClients: 1 }, async () => {
      await written
    })
    const [before] = await enlist(trainer, 'a')
    await answer(await begun(trainer, 0), ['a'])
    const [after] = await enlist(trainer, 'a')
    expect(before.isReplaced).toBe(true)
    write()
    await vi.waitFor(() => {
      expect(after.told).toContain('step')
    })
    expect(before.told).not.toContain('step')
  })

  it('leaves out a client that misses the deadline, tells it, and goes on without it until it enlists again', async () => {
    const { trainer, clock } = training({ minClients: 1 })
    const [a, b] = await enlist(trainer, 'a', 'b')
    const first = await begun(trainer, 0)
    first.forward.add('a', { lengths: [1], tensors: [] })
    clock.advance(DEADLINE_MS)
    await answer(first, ['a'])
    const second = await begun(trainer, 1)
    expect([a.told.includes('step'), b.told.includes('left out')]).toEqual([true, true])
    expect(second.participants).toEqual(['a'])
    await trainer.enlist(b, 0)
    await answer(second, ['a'])
    expect((await begun(trainer, 2)).participants).toEqual(['a', 'b'])
  })

  it('goes on without a client that leaves, which has no part in that round even when it comes back', async () => {
    const { trainer } = training({ minClients: 1 })
    const [, b] = await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    trainer.withdraw('b')
    await trainer.enlist(b, 0)
    expect(b.told.at(-1)).toBe('waiting')
    await answer(round, ['a'])
    expect((await begun(trainer, 1)).participants).toEqual(['a', 'b'])
    expect(b.told).toContain('step')
    expect(b.told).not.toContain('left out')
  })

  it('does not wait for a client that leaves while its hidden states are in the middle', async () => {
    const { trainer } = training({ minClients: 1 })
    await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    for (const peer of ['a', 'b']) round.forward.add(peer, { lengths: [1], tensors: [] })
    trainer.withdraw('b')
    const backward = await vi.waitFor(() => round.backward ?? expect.fail())
    expect(backward.missing).toEqual(['a'])
    backward.add('a', { tokens: 1, tensors: [] })
    trainer.withdraw('a')
    const contribution = await vi.waitFor(() => round.contribution ?? expect.fail())
    expect(contribution.missing).toEqual([])
  })

  it('stops at once while hidden states are in the middle', async () => {
    const { trainer, stop, state } = training({ minClients: 1 })
    await enlist(trainer, 'a')
    const round = await begun(trainer, 0)
    round.forward.add('a', { lengths: [1], tensors: [] })
    await stop()
    expect(state.round).toBe(0)
  })

  it('undoes a step that cannot be written, and tries the round again', async () => {
    let failures = 0
    const { trainer, strategy, state } = training({ minClients: 1 }, async () => {
      if (failures++ === 0) throw new Error('the disk is full')
    })
    const [a] = await enlist(trainer, 'a')
    const first = await begun(trainer, 0)
    await answer(first, ['a'])
    await vi.waitFor(() => {
      expect(a.told).toContain('dismissed')
    })
    expect(strategy.revert).toHaveBeenCalledOnce()
    expect(a.told).not.toContain('step')
    await trainer.enlist(a, 0)
    const again = await vi.waitFor(() => trainer.current === undefined || trainer.current === first ? expect.fail() : trainer.current, {
      timeout: 5_000
    })
    expect(again.number).toBe(0)
    await answer(again, ['a'])
    await vi.waitFor(() => {
      expect(state.round).toBe(1)
    })
  })

  it('lets members go on in turn when one is done', async () => {
    const { trainer } = training({ minClients: 2, strategy: 'sequential' })
    await enlist(trainer, 'a', 'b')
    const first = await begun(trainer, 0)
    expect(first.participants).toEqual(['a'])
    await answer(first, ['a'])
    trainer.withdraw('a')
    const second = await begun(trainer, 1)
    await answer(second, ['b'])
    expect((await begun(trainer, 2)).participants).toEqual(['b'])
  })

  it('stops waiting for a client that is removed from the federation while the round waits for it', async () => {
    const { trainer, steps } = training({ minClients: 2 })
    await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    round.forward.add('a', { lengths: [1], tensors: [] })
    expect(round.waitingFor).toEqual(['b'])
    trainer.expel('b')
    await answer(round, ['a'])
    await vi.waitFor(() => {
      expect(steps).toEqual([[{ peer: 'a', tokens: 1 }]])
    })
    expect(trainer.members.peers).toEqual(['a'])
  })

  it('has a client with new blocks go on with them in a round that has nothing of it', async () => {
    const { trainer } = training({ minClients: 1 })
    await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    const other = new MemoryParticipant('b', { first: 1, end: 3 })
    await trainer.enlist(other, 0)
    expect([round.participants, round.spanOf('b'), other.told]).toEqual([['a', 'b'], { first: 1, end: 3 }, ['begin']])
  })

  it('has a client with new blocks take part from the next round on where a round has work with the old ones', async () => {
    const { trainer } = training({ minClients: 1 })
    await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    round.forward.add('b', { lengths: [1], tensors: [] })
    const other = new MemoryParticipant('b', { first: 1, end: 3 })
    await trainer.enlist(other, 0)
    expect([round.participants, other.told]).toEqual([['a'], ['waiting']])
    await answer(round, ['a'])
    expect((await begun(trainer, 1)).spanOf('b')).toEqual({ first: 1, end: 3 })
  })
})

describe('a client that holds rounds up', () => {
  it('has one deadline for all of its replies in a round', async () => {
    const { trainer, clock, steps } = training({ minClients: 2 })
    const [, , c] = await enlist(trainer, 'a', 'b', 'c')
    const round = await begun(trainer, 0)
    for (const peer of ['a', 'b']) round.forward.add(peer, { lengths: [1], tensors: [] })
    clock.advance(0.9 * DEADLINE_MS)
    round.forward.add('c', { lengths: [1], tensors: [] })
    const backward = await vi.waitFor(() => round.backward ?? expect.fail())
    for (const peer of ['a', 'b']) backward.add(peer, { tokens: 1, tensors: [] })
    expect(round.waitingFor).toEqual(['c'])
    clock.advance(0.1 * DEADLINE_MS)
    const contribution = await vi.waitFor(() => round.contribution ?? expect.fail())
    for (const peer of ['a', 'b']) contribution.add(peer, new Map())
    await vi.waitFor(() => {
      expect(steps).toHaveLength(1)
    })
    expect([c.told.at(-1), clock.now()]).toEqual(['left out', DEADLINE_MS])
  })

  it('has the whole deadline left when it waited for others', async () => {
    const { trainer, clock } = training({ minClients: 2 })
    await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    round.forward.add('a', { lengths: [1], tensors: [] })
    clock.advance(0.9 * DEADLINE_MS)
    round.forward.add('b', { lengths: [1], tensors: [] })
    const backward = await vi.waitFor(() => round.backward ?? expect.fail())
    backward.add('b', { tokens: 1, tensors: [] })
    clock.advance(0.9 * DEADLINE_MS)
    expect(backward.missing).toEqual(['a'])
  })

  /** Sees a round through; each of these peers replies that long after the others. Tells which of them took part. */
  async function answerLate (
    { trainer, clock }: Pick<ReturnType<typeof training>, 'trainer' | 'clock'>,
    number: number,
    lateMs: Readonly<Record<string, number>>
  ): Promise<string[]> {
    const round = await begun(trainer, number)
    const all = round.participants
    for (const peer of all) if (lateMs[peer] === undefined) round.forward.add(peer, { lengths: [1], tensors: [] })
    for (const [peer, ms] of Object.entries(lateMs)) {
      if (!all.includes(peer)) continue
      clock.advance(ms)
      round.forward.add(peer, { lengths: [1], tensors: [] })
    }
    const there = (await vi.waitFor(() => round.backward ?? expect.fail())).missing
    await answerPass(round, 0, there)
    const contribution = await vi.waitFor(() => round.contribution ?? expect.fail())
    for (const peer of there) contribution.add(peer, new Map())
    return all
  }

  it.each([
    // A client that is left out enlists again, and then the next round has begun.
    ['misses', DEADLINE_MS, 'a round went on without a client', [0, 2, 4, 7]],
    ['lags', 0.9 * DEADLINE_MS, 'a client held a round up', [0, 1, 3, 6]]
  ] as const)('sits out a growing number of rounds when it %s them in a row, and comes back', async (_what, lateMs, line, expected) => {
    const session = training({ minClients: 2 })
    const { trainer, info } = session
    const [, , c] = await enlist(trainer, 'a', 'b', 'c')
    const took: number[] = []
    const reasons: number[] = []
    for (let number = 0; number < 9; number++) {
      const all = await answerLate(session, number, { c: lateMs })
      if (all.includes('c')) took.push(number)
      await begun(trainer, number + 1)
      if (trainer.members.get('c') === undefined) await trainer.enlist(c, 0)
      reasons.push(c.told.at(-1) === 'waiting' ? c.reason?.sitsOutRounds ?? 0 : 0)
    }
    expect(took).toEqual(expected)
    // After the second fault it sits out one round, after the third two, after the fourth four.
    expect(Math.max(...reasons)).toBe(4)
    expect(info).toHaveBeenCalledWith({ peer: 'c', round: expected[2], waitedMs: lateMs, sitsOutRounds: 2 }, line)
  })

  it('takes part all the same where there would be too few without it', async () => {
    const session = training({ minClients: 3 })
    await enlist(session.trainer, 'a', 'b', 'c')
    for (let number = 0; number < 4; number++)
      expect(await answerLate(session, number, { c: 0.9 * DEADLINE_MS })).toEqual(['a', 'b', 'c'])
  })
})

describe('a round of several passes', () => {
  it('is one step, and keeps nothing of a pass but the sum of its gradients', async () => {
    const { trainer, calls, steps } = training({ minClients: 2, passes: 3 })
    await enlist(trainer, 'a', 'b')
    await answer(await begun(trainer, 0), ['a', 'b'], 3)
    await begun(trainer, 1)
    const pass = (seed: string): string[] => [`forward a,b ${seed}`, 'add', 'free']
    expect(calls).toEqual([...pass('round/0'), ...pass('round/0/1'), ...pass('round/0/2'), 'dispose'])
    expect(steps).toEqual([[{ peer: 'a', tokens: 6 }, { peer: 'b', tokens: 6 }]])
  })

  it('leaves out by name the client whose gradients are more than its share of what all passes may sum up to', async () => {
    const { trainer, steps, warn } = training({ minClients: 2, passes: 2 }, undefined, { a: 2, b: 5 })
    const [, b] = await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    await answerPass(round, 0, ['a', 'b'])
    await answerPass(round, 1, ['a'])
    ;(await vi.waitFor(() => round.contribution ?? expect.fail())).add('a', new Map())
    await vi.waitFor(() => {
      expect(steps).toEqual([[{ peer: 'a', tokens: 3 }]])
    })
    expect(b.told).toContain('left out')
    expect(warn).toHaveBeenCalledWith({ peer: 'b', round: 0 }, expect.stringContaining('far too large'))
  })

  it('goes on without a client that misses a deadline of the first pass', async () => {
    const { trainer, clock, calls, steps } = training({ minClients: 2, passes: 2 })
    await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    round.forward.add('b', { lengths: [1], tensors: [] })
    await answerPass(round, 0, ['a'])
    expect(round.waitingFor).toEqual(['b'])
    clock.advance(DEADLINE_MS)
    await answerPass(round, 1, ['a'])
    ;(await vi.waitFor(() => round.contribution ?? expect.fail())).add('a', new Map())
    await vi.waitFor(() => {
      expect(steps).toEqual([[{ peer: 'a', tokens: 3 }]])
    })
    expect(calls.filter((call) => call.startsWith('forward'))).toEqual(['forward a,b round/0', 'forward a round/0/1'])
  })

  it.each(['forward', 'backward', 'contribution'] as const)(
    'restarts without a client that vanishes after the first pass, before its %s, and tells it',
    async (missed) => {
      const { trainer, clock, steps } = training({ minClients: 2, passes: 2 })
      const [a, b] = await enlist(trainer, 'a', 'b')
      const round = await begun(trainer, 0)
      await answerPass(round, 0, ['a', 'b'])
      await vi.waitFor(() => {
        expect(round.pass).toBe(1)
      })
      if (missed === 'forward') {
        round.forward.add('a', { lengths: [1], tensors: [] })
      } else {
        await answerPass(round, 1, missed === 'contribution' ? ['a', 'b'] : ['a'], ['a', 'b'])
        if (missed === 'contribution') (await vi.waitFor(() => round.contribution ?? expect.fail())).add('a', new Map())
      }
      expect(round.waitingFor).toEqual(['b'])
      clock.advance(DEADLINE_MS)
      await vi.waitFor(() => {
        expect(round.pass).toBe(0)
      })
      expect(a.told.filter((kind) => kind === 'begin')).toHaveLength(2)
      expect(b.told.filter((kind) => kind === 'begin')).toHaveLength(1)
      await answer(round, ['a'], 2)
      await vi.waitFor(() => {
        expect(steps).toEqual([[{ peer: 'a', tokens: 3 }]])
      })
      expect(a.told).toContain('step')
      expect(b.told).toContain('left out')
    }
  )

  it('restarts with a client that comes back after the first pass, but not without end', async () => {
    const { trainer, calls, steps } = training({ minClients: 2, passes: 2 })
    const [, b] = await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    for (let returns = 1; returns <= 4; returns++) {
      await answerPass(round, 0, ['a', 'b'])
      await vi.waitFor(() => {
        expect(round.pass).toBe(1)
      })
      round.requestRestart('b')
      await vi.waitFor(() => {
        expect(round.pass).toBe(0)
      })
      expect(round.waitingFor).toEqual(returns <= 3 ? ['a', 'b'] : ['a'])
    }
    await answer(round, ['a'], 2)
    await vi.waitFor(() => {
      expect(b.told).toContain('left out')
    })
    expect(steps).toEqual([[{ peer: 'a', tokens: 3 }]])
    expect(calls.filter((call) => call === 'dispose')).toHaveLength(5)
  })
})

describe('a round in which all clip by one norm', () => {
  /** Two members in a round whose gradients are in. */
  async function atNorms (passes = 1) {
    const { trainer, ...rest } = training({ minClients: 2, passes, clipsTogether: true })
    const [a, b] = await enlist(trainer, 'a', 'b')
    const round = await begun(trainer, 0)
    const norms = async (told: Readonly<Record<string, number>>): Promise<void> => {
      for (let pass = 0; pass < passes; pass++) await answerPass(round, pass, Object.keys(told))
      const norm = await vi.waitFor(() => round.norm ?? expect.fail())
      for (const [peer, value] of Object.entries(told)) norm.add(peer, value)
    }
    const contribute = async (...peers: readonly string[]): Promise<void> => {
      const contribution = await vi.waitFor(() => round.contribution ?? expect.fail())
      for (const peer of peers) contribution.add(peer, new Map())
    }
    return { trainer, round, a, b, norms, contribute, ...rest }
  }

  it('tells all of them one coefficient, and takes its own step with it', async () => {
    const { a, b, norms, contribute, coefficients, round } = await atNorms()
    await norms({ a: 3, b: 5 })
    await vi.waitFor(() => {
      expect(a.told).toContain('coefficient 0.125')
    })
    expect(b.told).toContain('coefficient 0.125')
    expect([round.coefficientOf('a'), round.coefficientOf('c')]).toEqual([0.125, undefined])
    await contribute('a', 'b')
    await vi.waitFor(() => {
      expect(coefficients).toEqual([0.125])
    })
  })

  it('leaves out a client that does not tell its norm in time', async () => {
    const { a, b, round, clock, norms, contribute, steps, coefficients, calls } = await atNorms()
    await answerPass(round, 0, ['a', 'b'])
    await norms({ a: 4 })
    expect(round.waitingFor).toEqual(['b'])
    clock.advance(DEADLINE_MS)
    await contribute('a')
    await vi.waitFor(() => {
      expect(steps).toEqual([[{ peer: 'a', tokens: 1 }]])
    })
    expect(coefficients).toEqual([0.25])
    expect(calls.filter((call) => call.startsWith('forward'))).toEqual(['forward a,b round/0', 'forward a round/0'])
    expect(a.told).toContain('coefficient 0.25')
    expect(b.told).toEqual(['begin', 'hidden', 'gradient', 'left out'])
  })

  it.each(['vanishes', 'leaves'] as const)('restarts without a client that %s once its norm is in the coefficient', async (how) => {
    const { trainer, a, b, round, clock, norms, contribute, steps, coefficients } = await atNorms()
    await norms({ a: 4, b: 4 })
    await contribute('a')
    if (how === 'leaves') trainer.withdraw('b')
    else clock.advance(DEADLINE_MS)
    await vi.waitFor(() => {
      expect(a.told.filter((kind) => kind === 'begin')).toHaveLength(2)
    })
    expect(round.coefficientOf('a')).toBeUndefined()
    await norms({ a: 4 })
    await contribute('a')
    await vi.waitFor(() => {
      expect(steps).toEqual([[{ peer: 'a', tokens: 1 }]])
    })
    expect(coefficients).toEqual([0.25])
    expect(a.told).toEqual([
      'waiting', 'begin', 'hidden', 'gradient', 'coefficient 0.125', 'begin', 'hidden', 'gradient', 'coefficient 0.25', 'step'
    ])
    expect(b.told.filter((kind) => kind === 'begin')).toHaveLength(1)
  })

  it('keeps a client that comes back to the first pass, with a new coefficient', async () => {
    const { a, round, norms, contribute, coefficients } = await atNorms(2)
    await norms({ a: 4, b: 4 })
    await contribute('a')
    round.requestRestart('b')
    await vi.waitFor(() => {
      expect(a.told.filter((kind) => kind === 'begin')).toHaveLength(2)
    })
    expect(round.participants).toEqual(['a', 'b'])
    await norms({ a: 1, b: 1 })
    await contribute('a', 'b')
    await vi.waitFor(() => {
      expect(coefficients).toEqual([0.5])
    })
  })
})
