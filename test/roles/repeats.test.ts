import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { roles, type Roles } from '../../src/node/daemon/roles.ts'
import { TRAIN_PROTOCOL } from '../../src/protocols/train/constants.ts'
import * as train from '../../src/protocols/train/messages.ts'
import { acceptChannel } from '../../src/protocols/wire/channel.ts'
import { ChannelResetError } from '../../src/protocols/wire/errors.ts'
import { MAX_UNCOUNTED } from '../../src/roles/client/training/run-place.ts'
import { bytesOf, float32, type Tensor } from '../../src/tensor.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { startFederation, TestPeer, type TestFederation } from './helpers.ts'

const limits = { maxMessageBytes: 2 ** 16, maxTensorBytes: 2 ** 24, maxTensors: 64 }
const REPEATS = 6

type ServerKind = Parameters<typeof train.fromServer>[0]
type Say = (kind: ServerKind, tensors?: readonly Tensor[]) => Promise<void>

/** How a server has the same work done again. */
type Repeat = 'begin' | 'withdrawn' | 'reset'

/**
 * A server that never ends round 0: it begins the round again as soon as a client's gradients are in, or has the client enlist again, or
 * breaks the stream. Each time it answers with slightly other hidden states.
 */
class RepeatingServer {
  readonly hidden: string[] = []
  readonly gradients: string[] = []
  readonly repeat: Repeat
  /** After so many gradients it says nothing more. */
  readonly limit: number
  readonly enough = Promise.withResolvers<void>()

  constructor (repeat: Repeat, limit: number) {
    this.repeat = repeat
    this.limit = limit
  }

  get roles (): Roles {
    return {
      ...roles,
      server: async (context) => {
        await context.handle(TRAIN_PROTOCOL, async (stream, peer) => {
          const channel = await acceptChannel(stream, {
            protocol: TRAIN_PROTOCOL,
            identity: context.identity,
            remotePeer: peer,
            charter: context.charterHash,
            outgoing: train.ServerMessageSchema,
            incoming: train.ClientMessageSchema,
            limits
          })
          await this.#serve(channel).catch(() => {})
        }, { maxInboundStreams: 16 })
        return { status: () => ({}), operations: {}, stop: async () => { await Promise.resolve() } }
      }
    }
  }

  protected get round (): number { return 0 }

  /** What follows when a client's gradients are in. */
  protected async next (say: Say): Promise<void> {
    await this.#begin(say)
  }

  async #begin (say: Say): Promise<void> {
    await say({ case: 'begin', value: { round: this.round, members: 1, deadlineMs: 60_000 } })
  }

  async #serve (channel: train.TrainServerChannel): Promise<void> {
    const say: Say = async (kind, tensors = []) => { await channel.send(train.fromServer(kind), tensors) }
    for (;;) {
      const { message: { kind }, tensors } = await channel.receive()
      if (kind.case === 'withdraw') await say({ case: 'withdrawn', value: {} })
      if (kind.case === 'enlist') {
        await say({ case: 'enlisted', value: { round: this.round, countedRound: 0, names: [], members: 1 } })
        if (this.gradients.length < this.limit) await this.#begin(say)
      }
      if (kind.case === 'forward') {
        this.hidden.push(digest(tensors))
        await say({ case: 'hidden', value: { round: this.round, pass: 0 } }, tensors.map((part) => nearly(part, this.gradients.length)))
      }
      if (kind.case === 'backward') {
        this.gradients.push(digest(tensors))
        if (this.gradients.length >= this.limit) this.enough.resolve()
        else if (this.repeat === 'begin') await this.next(say)
        else if (this.repeat === 'withdrawn') await say({ case: 'withdrawn', value: {} })
        else return channel.abort(new ChannelResetError())
      }
    }
  }
}

/** A server that leaves its client out of every round. */
class LeavingOutServer extends RepeatingServer {
  #round = 0

  constructor () {
    super('begin', 10)
  }

  protected override get round (): number { return this.#round }

  protected override async next (say: Say): Promise<void> {
    await say({ case: 'step', value: { round: this.#round, scale: 1, leftOut: true, names: [], members: 1 } })
    this.#round++
  }
}

const digest = (tensors: readonly Tensor[]): string => tensors.map((part) => Buffer.from(bytesOf(part)).toString('base64')).join()
const nearly = ({ shape, data }: Tensor, count: number): Tensor =>
  float32(shape, Float32Array.from(data as Float32Array, (value) => value * (1 + 1e-3 * count)))

describe('a server that has a round computed again', { timeout: 120_000 }, () => {
  let root: string
  let federation: TestFederation
  let server: TestPeer | undefined

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-repeats-'))
    await writeTinyModel(join(root, 'model'))
    await writeTinyData(join(root, 'data.jsonl'), 1)
    federation = await startFederation({
      model: join(root, 'model'),
      clients: [{ noise: 0.5, gradientNoise: 0.5 }],
      charter: { noise: 0.5, gradientNoise: 0.5, clip: 3 }
    })
    await federation.server.stop()
  })
  afterEach(async () => {
    await server?.stop()
    server = undefined
    await federation.stop()
    await rm(root, { recursive: true, force: true })
  })

  /** Has a hostile server in place of the honest one, trains until it has seen enough, and returns what it saw. */
  async function seenBy (repeat: Repeat, limit = REPEATS): Promise<RepeatingServer> {
    await server?.stop()
    const hostile = new RepeatingServer(repeat, limit)
    server = await TestPeer.start(federation.path('server'), [federation.address.split('/p2p/')[0]!], hostile.roles)
    const stop = new AbortController()
    const training = federation.clients[0]!.train(parameters(), stop.signal)
    training.catch(() => {})
    await Promise.race([hostile.enough.promise, training])
    stop.abort()
    await training.catch(() => {})
    return hostile
  }
  const parameters = () => ({ data: join(root, 'data.jsonl'), rounds: 1, sequences: 2, packing: 'padded' })

  it.each(['begin', 'withdrawn', 'reset'] as const)(
    'gets the same bytes each time, by %s, whatever hidden states it sends',
    async (repeat) => {
      const { hidden, gradients } = await seenBy(repeat)
      expect([hidden.length, gradients.length]).toEqual([REPEATS, REPEATS])
      expect(new Set(hidden).size).toBe(1)
      expect(new Set(gradients).size).toBe(1)
    }
  )

  it('gets the same bytes after a restart of the client, and of its training', async () => {
    const first = await seenBy('begin', 2)
    const again = await seenBy('begin', 2)
    await federation.clients[0]!.peer.stop()
    await federation.clients[0]!.peer.start()
    const restarted = await seenBy('begin', 2)
    for (const { hidden, gradients } of [again, restarted]) {
      expect(hidden).toEqual(first.hidden)
      expect(gradients).toEqual(first.gradients)
    }
  })

  it('gets a batch that it never counts in eight rounds, and then the next one', async () => {
    const hostile = new LeavingOutServer()
    server = await TestPeer.start(federation.path('server'), [federation.address.split('/p2p/')[0]!], hostile.roles)
    const stop = new AbortController()
    const reasons: string[] = []
    const training = (async () => {
      for await (const event of federation.clients[0]!.peer.events('train', parameters(), stop.signal))
        if ('reason' in event) reasons.push(event.reason as string)
    })()
    training.catch(() => {})
    await Promise.race([hostile.enough.promise, training])
    stop.abort()
    await training.catch(() => {})
    // The client's blocks stay as they are here, so that the same rows leave as the same bytes.
    const [first, ...others] = hostile.hidden
    expect(others.findIndex((bytes) => bytes !== first)).toBe(MAX_UNCOUNTED - 1)
    expect(reasons.join()).toContain('a batch did not count in 8 rounds, and is left out')
  })

  it('gets a batch that it never counts eight times, restarts of the client included', async () => {
    const first: string[] = []
    for (let run = 0; run <= MAX_UNCOUNTED; run++) first.push((await seenBy('begin', 1)).hidden[0]!)
    expect(first.findIndex((bytes) => bytes !== first[0])).toBe(MAX_UNCOUNTED)
  })

  it('is refused when it does so without end, after the user was told', async () => {
    const hostile = new RepeatingServer('begin', Infinity)
    server = await TestPeer.start(federation.path('server'), [federation.address.split('/p2p/')[0]!], hostile.roles)
    const reasons: string[] = []
    await expect((async () => {
      for await (const event of federation.clients[0]!.peer.events('train', parameters()))
        if ('reason' in event) reasons.push(event.reason as string)
    })()).rejects.toMatchObject({ code: 'E_ROUND_REPEATED' })
    expect(reasons.join()).toContain('the same released states')
    expect(hostile.gradients.length).toBeLessThan(40)
  })
})
