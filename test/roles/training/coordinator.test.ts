import { afterEach, describe, expect, it, vi } from 'vitest'
import type { Charter } from '../../../src/protocols/charter/schema.ts'
import type { ServerMessage, TrainServerChannel } from '../../../src/protocols/train/messages.ts'
import type { LocalStage } from '../../../src/roles/middle/local-stage.ts'
import type { FederatedAdapters } from '../../../src/roles/training/aggregation/federated-adapters.ts'
import type { Commit, CoordinatorState } from '../../../src/roles/training/coordinator-state.ts'
import { Coordinator } from '../../../src/roles/training/coordinator.ts'
import type { Timer } from '../../../src/roles/training/reply-collector.ts'
import type { AcceptedUpdate, Update } from '../../../src/roles/training/round-execution.ts'
import type { Round } from '../../../src/roles/training/round.ts'

const span = { first: 1, end: 2 }

/** What a client is told, as the server's side of its stream sees it. */
function stream (): { readonly channel: TrainServerChannel, readonly told: string[] } {
  const told: string[] = []
  const send = async ({ kind }: ServerMessage): Promise<void> => {
    if (kind.case === 'coefficient') told.push(`coefficient ${kind.value.coefficient}`)
    else told.push(kind.case === 'step' && kind.value.leftOut ? 'left out' : kind.case ?? '')
  }
  return { channel: { send, abort: () => {} } as unknown as TrainServerChannel, told }
}

/** Deadlines that pass when a test says so. */
function manualTimer (): Timer & { readonly expire: () => void } {
  const pending = new Set<() => void>()
  return {
    after (_delayMs, callback) {
      pending.add(callback)
      return () => {
        pending.delete(callback)
      }
    },
    expire () {
      for (const callback of [...pending]) callback()
    }
  }
}

const stopping: AbortController[] = []
afterEach(() => {
  for (const controller of stopping.splice(0)) controller.abort()
})

/** What gradients may sum up to. */
const GREATEST_NORM = 12

/** A trainer at work, whose model computes nothing, whose disk is `commit` and whose clients' gradients have these norms. */
function training (
  charter: { minClients: number, strategy?: Charter['strategy'], passes?: number, clipsTogether?: boolean },
  commit: (step: Commit) => Promise<void> = async () => {},
  norms: Readonly<Record<string, number>> = {}
) {
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
  /** What the middle was asked to do, in order. */
  const calls: string[] = []
  const middle = {
    gradientSum: () => ({
      gradients: new Map(),
      add: async () => {
        calls.push('add')
      },
      [Symbol.dispose]: () => {
        calls.push('dispose')
      }
    }),
    forward: async (passengers: ReadonlyArray<{ id: string }>, seed: string) => {
      calls.push(`forward ${passengers.map(({ id }) => id).join()} ${seed}`)
      return {
        hidden: new Map(passengers.map(({ id }) => [id, []])),
        adapterGradients: new Map([['norm', passengers.reduce((sum, { id }) => sum + (norms[id] ?? 0), 0)]]),
        takeGradients: () => new Map(),
        backward: async (answers: ReadonlyMap<string, unknown>) => new Map([...answers.keys()].map((peer) => [peer, []])),
        free: () => {
          calls.push('free')
        }
      }
    }
  }
  const steps: Array<ReadonlyArray<Pick<AcceptedUpdate, 'peer' | 'tokens'>>> = []
  /** What was multiplied with in each step, where clients had been told. */
  const coefficients: Array<number | undefined> = []
  const adapters = {
    clippingCoefficient: async (_gradients: unknown, works: readonly Update[]) => 1 / works.reduce((sum, { norm }) => sum + norm, 0),
    step: async (_round: number, _gradients: unknown, counted: readonly AcceptedUpdate[], coefficient?: number) => {
      coefficients.push(coefficient)
      steps.push(counted.map(({ peer, tokens }) => ({ peer, tokens })))
      return { scale: 1, for: () => ({ names: [], tensors: [] }), tensors: new Map(), unaveragedTokens: {} }
    },
    isSummable: async (gradients: ReadonlyMap<string, number>, parts: number) => (gradients.get('norm') ?? 0) * parts <= GREATEST_NORM,
    revert: vi.fn(async () => {})
  }
  const warn = vi.fn()
  const trainer = new Coordinator({
    charter: {
      strategy: charter.strategy ?? 'client-batch',
      ends: { mode: 'personal' },
      limits: { maxClients: 8 },
      training: {
        minClients: charter.minClients,
        roundDeadlineMs: 1000,
        gradientAccumulationSteps: charter.passes ?? 1,
        maxGradientNorm: 1,
        gradientNormScope: charter.clipsTogether === true ? 'global' : 'party'
      }
    } as Charter,
    middle: middle as unknown as LocalStage,
    adapters: adapters as unknown as FederatedAdapters,
    state: state as unknown as CoordinatorState,
    logger: { debug: () => {}, info: () => {}, warn, error: () => {} },
    timer
  })
  const controller = new AbortController()
  stopping.push(controller)
  const ended = trainer.run(controller.signal)
  return {
    trainer,
    timer,
    state,
    adapters,
    calls,
    steps,
    coefficients,
    warn,
    stop: async () => {
      controller.abort()
      await ended
    }
  }
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

describe('Trainer', () => {
  it('tells of a step on the stream that a client has when it is durable', async () => {
    const { promise: written, resolve: write } = Promise.withResolvers<void>()
    const { trainer } = training({ minClients: 1 }, async () => {
      await written
    })
    const [before, after] = [stream(), stream()]
    trainer.members.enlist('a', span, before.channel)
    await answer(await begun(trainer, 0), ['a'])
    trainer.members.enlist('a', span, after.channel)
    write()
    await vi.waitFor(() => {
      expect(after.told).toContain('step')
    })
    expect(before.told).not.toContain('step')
  })

  it('leaves out a client that misses the deadline, tells it, and goes on without it until it enlists again', async () => {
    const { trainer, timer } = training({ minClients: 1 })
    const [a, b] = [stream(), stream()]
    trainer.members.enlist('a', span, a.channel)
    trainer.members.enlist('b', span, b.channel)
    const first = await begun(trainer, 0)
    first.forward.add('a', { lengths: [1], tensors: [] })
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
    for (const peer of ['a', 'b']) round.forward.add(peer, { lengths: [1], tensors: [] })
    trainer.withdraw('b')
    const backward = await vi.waitFor(() => round.backward ?? expect.fail())
    expect(backward.missing).toEqual(['a'])
    backward.add('a', { tokens: 1, tensors: [] })
    trainer.withdraw('a')
    const contribution = await vi.waitFor(() => round.contribution ?? expect.fail())
    expect(contribution.missing).toEqual([])
  })

  it('stops at once while rows are in the middle', async () => {
    const { trainer, stop, state } = training({ minClients: 1 })
    trainer.members.enlist('a', span, stream().channel)
    const round = await begun(trainer, 0)
    round.forward.add('a', { lengths: [1], tensors: [] })
    await stop()
    expect(state.round).toBe(0)
  })

  it('undoes a step that cannot be written, and tries the round again', async () => {
    let failures = 0
    const { trainer, adapters, state } = training({ minClients: 1 }, async () => {
      if (failures++ === 0) throw new Error('the disk is full')
    })
    const a = stream()
    trainer.members.enlist('a', span, a.channel)
    const first = await begun(trainer, 0)
    await answer(first, ['a'])
    await vi.waitFor(() => {
      expect(a.told).toContain('withdrawn')
    })
    expect(adapters.revert).toHaveBeenCalledOnce()
    expect(a.told).not.toContain('step')
    trainer.members.enlist('a', span, a.channel)
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

describe('a round of several passes', () => {
  it('is one step, and keeps nothing of a pass but the sum of its gradients', async () => {
    const { trainer, calls, steps } = training({ minClients: 2, passes: 3 })
    for (const peer of ['a', 'b']) trainer.members.enlist(peer, span, stream().channel)
    await answer(await begun(trainer, 0), ['a', 'b'], 3)
    await begun(trainer, 1)
    const pass = (seed: string): string[] => [`forward a,b ${seed}`, 'add', 'free']
    expect(calls).toEqual([...pass('round/0'), ...pass('round/0/1'), ...pass('round/0/2'), 'dispose'])
    expect(steps).toEqual([[{ peer: 'a', tokens: 6 }, { peer: 'b', tokens: 6 }]])
  })

  it('leaves out by name the client whose gradients are more than its share of what all passes may sum up to', async () => {
    const { trainer, steps, warn } = training({ minClients: 2, passes: 2 }, undefined, { a: 2, b: 5 })
    const b = stream()
    trainer.members.enlist('a', span, stream().channel)
    trainer.members.enlist('b', span, b.channel)
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
    const { trainer, timer, calls, steps } = training({ minClients: 2, passes: 2 })
    for (const peer of ['a', 'b']) trainer.members.enlist(peer, span, stream().channel)
    const round = await begun(trainer, 0)
    round.forward.add('b', { lengths: [1], tensors: [] })
    await answerPass(round, 0, ['a'])
    expect(round.waitingFor).toEqual(['b'])
    timer.expire()
    await answerPass(round, 1, ['a'])
    ;(await vi.waitFor(() => round.contribution ?? expect.fail())).add('a', new Map())
    await vi.waitFor(() => {
      expect(steps).toEqual([[{ peer: 'a', tokens: 3 }]])
    })
    expect(calls.filter((call) => call.startsWith('forward'))).toEqual(['forward a,b round/0', 'forward a round/0/1'])
  })

  it.each(['forward', 'backward', 'contribution'] as const)(
    'begins anew without a client that vanishes after the first pass, before its %s, and tells it',
    async (missed) => {
      const { trainer, timer, steps } = training({ minClients: 2, passes: 2 })
      const [a, b] = [stream(), stream()]
      trainer.members.enlist('a', span, a.channel)
      trainer.members.enlist('b', span, b.channel)
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
      timer.expire()
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

  it('begins anew with a client that comes back after the first pass, but not without end', async () => {
    const { trainer, calls, steps } = training({ minClients: 2, passes: 2 })
    const b = stream()
    trainer.members.enlist('a', span, stream().channel)
    trainer.members.enlist('b', span, b.channel)
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
    const [a, b] = [stream(), stream()]
    trainer.members.enlist('a', span, a.channel)
    trainer.members.enlist('b', span, b.channel)
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
    const { a, b, round, timer, norms, contribute, steps, coefficients, calls } = await atNorms()
    await answerPass(round, 0, ['a', 'b'])
    await norms({ a: 4 })
    expect(round.waitingFor).toEqual(['b'])
    timer.expire()
    await contribute('a')
    await vi.waitFor(() => {
      expect(steps).toEqual([[{ peer: 'a', tokens: 1 }]])
    })
    expect(coefficients).toEqual([0.25])
    expect(calls.filter((call) => call.startsWith('forward'))).toEqual(['forward a,b round/0', 'forward a round/0'])
    expect(a.told).toContain('coefficient 0.25')
    expect(b.told).toEqual(['begin', 'hidden', 'gradient', 'left out'])
  })

  it.each(['vanishes', 'leaves'] as const)('begins anew without a client that %s once its norm is in the coefficient', async (how) => {
    const { trainer, a, b, round, timer, norms, contribute, steps, coefficients } = await atNorms()
    await norms({ a: 4, b: 4 })
    await contribute('a')
    if (how === 'leaves') trainer.withdraw('b')
    else timer.expire()
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
    expect(a.told).toEqual(['begin', 'hidden', 'gradient', 'coefficient 0.125', 'begin', 'hidden', 'gradient', 'coefficient 0.25', 'step'])
    expect(b.told.filter((kind) => kind === 'begin')).toHaveLength(1)
  })

  it('takes a client that comes back to the first pass along again, with a new coefficient', async () => {
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
