import { writeFile } from 'node:fs/promises'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { protocolId } from '../../src/protocols/charter/index.ts'
import { GENERATE_PROTOCOL, MAX_GENERATE_STREAMS } from '../../src/protocols/generate/constants.ts'
import * as generate from '../../src/protocols/generate/messages.ts'
import { HANDOVER_PROTOCOL } from '../../src/protocols/handover/constants.ts'
import { MAX_SEQUENCES, MAX_TENSORS, MAX_TRAIN_STREAMS, TRAIN_PROTOCOL } from '../../src/protocols/train/constants.ts'
import * as train from '../../src/protocols/train/messages.ts'
import { StreamSource } from '../../src/protocols/wire/source.ts'
import { float32, int32, tensor, type Tensor } from '../../src/tensor.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { Attacker, refusalOf } from './attacker.ts'
import { devices } from './devices.ts'
import { startFederation, type EvaluationResult, type TestFederation } from './helpers.ts'

vi.mock('../../src/model/runtime/worker-device.ts', async (load) => await (await import('./devices.ts')).noting(load))

const MODEL = 'stories260K-hf'
const TIMEOUT_MS = 120_000
const HIDDEN = 64
const MAX_TOKENS = 128
const MIDDLE = { first: 1, end: 4 }
const PROTOCOLS = [TRAIN_PROTOCOL, GENERATE_PROTOCOL, HANDOVER_PROTOCOL, protocolId('hello'), protocolId('weights'), protocolId('status')]

/** What all attacks of this file together may leave behind in the process that holds the server, its clients and the attacker. */
const MEMORY_BOUND_BYTES = 128 * 2 ** 20

type TrainMessage = Parameters<typeof train.fromClient>[0]
type GenerateMessage = Parameters<typeof generate.fromClient>[0]

const rows = (count: number, value = 0.1, width = HIDDEN): Tensor => float32([count, width], new Float32Array(count * width).fill(value))
const evaluate = (lengths: number[], middle = MIDDLE): TrainMessage => ({ case: 'evaluate', value: { request: 1, middle, lengths } })

describe.skipIf(!hasData(MODEL))('a server under attack by one of its clients', { timeout: TIMEOUT_MS }, () => {
  let federation: TestFederation
  let attacker: Attacker
  let calm: EvaluationResult
  let calmBytes: number
  let calmMemoryBytes: number

  const honest = async (): Promise<EvaluationResult> =>
    await federation.clients[0]!.evaluate({ data: federation.path('notes.txt'), maxTokens: 24, sequences: 2, limit: 4 })
  const memoryBytes = (): number => {
    const { heapUsed, external } = process.memoryUsage()
    return heapUsed + external
  }

  beforeAll(async () => {
    federation = await startFederation({
      model: dataPath(MODEL),
      clients: [{}],
      charter: { maxTokensPerClient: MAX_TOKENS, cacheBytes: 200_000, inputBlocks: { min: 1, max: 2 }, outputBlocks: { min: 1, max: 1 } }
    })
    await writeFile(federation.path('notes.txt'), Array.from({ length: 20 }, (_, i) => `There were ${i} ducks on the pond.`).join('\n\n'))
    attacker = await Attacker.join(federation, 'attacker')
    calm = await honest()
    await federation.clients[0]!.generate({ ids: [1], maxTokens: 3 })
    calmBytes = (await devices[0]!.memory()).heldBytes
    calmMemoryBytes = memoryBytes()
  }, TIMEOUT_MS)
  afterAll(async () => {
    await federation.stop()
  })
  afterEach(async () => {
    // Whatever was tried: the others get what they got before, and nothing of it stays on the device or in memory.
    expect((await honest()).loss).toBe(calm.loss)
    await vi.waitFor(async () => {
      expect(federation.server.daemon.status().generation).toMatchObject({ sequences: 0, cacheBytes: 0 })
      expect((await devices[0]!.memory()).heldBytes).toBe(calmBytes)
    }, 10_000)
    expect(memoryBytes() - calmMemoryBytes).toBeLessThan(MEMORY_BOUND_BYTES)
  })

  const badTraining: ReadonlyArray<readonly [string, TrainMessage | undefined, readonly Tensor[], string?]> = [
    ['no message', undefined, []],
    ['rows of another width', evaluate([3]), [rows(3, 0.1, HIDDEN - 1)]],
    ['more rows than its lengths', evaluate([3]), [rows(4)]],
    ['fewer rows than its lengths', evaluate([3, 5]), [rows(3)]],
    ['rows of another rank', evaluate([3]), [float32([3, HIDDEN, 1], new Float32Array(3 * HIDDEN))]],
    ['rows of another type', evaluate([1]), [int32([1, HIDDEN], new Int32Array(HIDDEN))]],
    ['half-precision rows where single was agreed', evaluate([1]), [tensor('float16', [1, HIDDEN], new Uint16Array(HIDDEN))]],
    ['no rows', evaluate([3]), []],
    ['one tensor too many', evaluate([1]), [rows(1), rows(1)]],
    ['NaN', evaluate([2]), [rows(2, Number.NaN)]],
    ['infinity', evaluate([2]), [rows(2, -Infinity)]],
    ['values that would overflow', evaluate([2]), [rows(2, 3e38)]],
    ['no sequences', evaluate([]), [rows(0)]],
    ['an empty sequence', evaluate([0, 2]), [rows(2)]],
    ['a sequence of absurd length', evaluate([2 ** 32 - 1]), [rows(1)]],
    ['a context, which this model does not have', {
      case: 'evaluate',
      value: { request: 1, middle: MIDDLE, lengths: [4], contextLengths: [2], maskPositions: [1] }
    }, [rows(4)]],
    ['more sequences than a message may have', evaluate(Array.from({ length: MAX_SEQUENCES + 1 }, () => 1)), [rows(5)]],
    ['more tokens than the charter allows', evaluate(Array.from({ length: MAX_TOKENS + 1 }, () => 1)), [rows(MAX_TOKENS + 1)]],
    ['blocks that the model does not have', evaluate([1], { first: 1, end: 2 ** 32 - 1 }), [rows(1)]],
    ['blocks backwards', evaluate([1], { first: 4, end: 1 }), [rows(1)]],
    ['blocks that no partition leaves to the server', evaluate([1], { first: 0, end: 4 }), [rows(1)]],
    ['no blocks', { case: 'enlist', value: { round: 0 } }, []],
    ['a round that is yet to come', { case: 'enlist', value: { middle: MIDDLE, round: 1000 } }, [], 'E_ROUNDS_AHEAD'],
    ['forward rows before it enlisted', { case: 'forward', value: { round: 0, lengths: [1] } }, [rows(1)]],
    ['gradient rows before it enlisted', { case: 'backward', value: { round: 0, tokens: 1 } }, [rows(1)]],
    ['a contribution before it enlisted', { case: 'contribution', value: { round: 0, names: ['0.self_attn.q_proj.lora_A'] } }, [rows(1)]],
    ['the norm of gradients before it enlisted', { case: 'gradientNorm', value: { round: 0, norm: 1 } }, []],
    ['a step of a secure sum before it enlisted', {
      case: 'secureReply', value: { round: 0, attempt: 0, step: { case: 'confirm', value: {} } }
    }, []],
    ['adapters without those of blocks that the model does not have', {
      case: 'fetchAdapters', value: { except: { first: 0, end: 2 ** 32 - 1 } }
    }, []],
    ['adapters without those of blocks backwards', { case: 'fetchAdapters', value: { except: { first: 4, end: 1 } } }, []],
    ['a frame above the limit', evaluate([1]), [rows(2 ** 16)], 'E_FRAME_TOO_LARGE'],
    ['more tensors than a frame may have', evaluate([1]), Array.from({ length: MAX_TENSORS + 1 }, () => rows(0)), 'E_FRAME_TOO_LARGE']
  ]

  for (const [what, message, tensors, code = 'E_BAD_MESSAGE'] of badTraining) {
    it(`refuses on a training stream: ${what}`, async () => {
      const channel = await attacker.training()
      await channel.send(message === undefined ? train.fromClient({ case: undefined }) : train.fromClient(message), tensors).catch(() => {})
      expect(await refusalOf(channel)).toBe(code)
    })
  }

  const begin = (changes: object = {}): GenerateMessage => ({ case: 'begin', value: { ...MIDDLE, capacity: 16, ...changes } })
  const some = (position: number, count: number): GenerateMessage => ({ case: 'rows', value: { position, count } })
  const badGeneration: ReadonlyArray<readonly [string, ReadonlyArray<readonly [GenerateMessage, readonly Tensor[]]>, string?]> = [
    ['rows before it began', [[some(0, 1), [rows(1)]]]],
    ['no room', [[begin({ capacity: 0 }), []]]],
    ['absurd room', [[begin({ capacity: 2 ** 32 - 1 }), []]]],
    ['more room than there is', [[begin({ capacity: 512 }), []]], 'E_CACHE_FULL'],
    ['absurd blocks', [[begin({ end: 2 ** 32 - 1 }), []]]],
    ['blocks backwards', [[begin({ first: 3, end: 2 }), []]]],
    ['blocks that this server does not have', [[begin({ first: 0 }), []]], 'E_SPAN_NOT_SERVED'],
    ['a second beginning', [[begin(), []], [begin(), []]]],
    ['no rows', [[begin(), []], [some(0, 0), [rows(0)]]]],
    ['more rows than there is room for', [[begin(), []], [some(0, 17), [rows(17)]]]],
    ['a position that leaves a gap', [[begin(), []], [some(5, 1), [rows(1)]]]],
    ['an absurd position', [[begin(), []], [some(2 ** 32 - 1, 1), [rows(1)]]]],
    ['a context, which this model does not have', [[begin(), []], [{
      case: 'rows',
      value: { position: 0, count: 4, contextLength: 2, maskPosition: 1 }
    }, [rows(4)]]]],
    ['rows of another width', [[begin(), []], [some(0, 2), [rows(2, 0.1, 63)]]]],
    ['NaN', [[begin(), []], [some(0, 2), [rows(2, Number.NaN)]]]],
    ['NaN after good rows', [[begin(), []], [some(0, 2), [rows(2)]], [some(2, 1), [rows(1, Number.NaN)]]]]
  ]

  for (const [what, messages, code = 'E_BAD_MESSAGE'] of badGeneration) {
    it(`refuses on a generation stream: ${what}`, async () => {
      const channel = await attacker.generation()
      for (const [message, tensors] of messages) await channel.send(generate.fromClient(message), tensors).catch(() => {})
      expect(await refusalOf(channel)).toBe(code)
    })
  }

  it('gives a client no more sessions than the charter says', async () => {
    const { maxSessionsPerClient } = attacker.context.charter.limits
    const sessions = await Promise.all(
      Array.from({ length: maxSessionsPerClient }, async (_, i) => i % 2 === 0 ? await attacker.training() : await attacker.generation())
    )
    const refused = await attacker.training().then(refusalOf, (error: unknown) => (error as { code: string }).code)
    expect(refused).toBe('E_TOO_MANY_SESSIONS')
    expect((await honest()).loss).toBe(calm.loss)
    for (const session of sessions) session.abort(new Error('enough'))
  })

  it('lets a session in that comes a little before another one of its client ends', async () => {
    const { maxSessionsPerClient } = attacker.context.charter.limits
    const sessions = await Promise.all(
      Array.from({ length: maxSessionsPerClient }, async (_, i) => i % 2 === 0 ? await attacker.training() : await attacker.generation())
    )
    const late = await attacker.generation()
    sessions[0]!.abort(new Error('enough'))
    await late.send(generate.fromClient({ case: 'rows', value: { position: 0, count: 0 } }), [rows(0)]).catch(() => {})
    expect(await refusalOf(late)).toBe('E_BAD_MESSAGE') // which only a session that was let in is told
    for (const session of sessions.slice(1)) session.abort(new Error('enough'))
  })

  it.each([
    [TRAIN_PROTOCOL, MAX_TRAIN_STREAMS],
    [GENERATE_PROTOCOL, MAX_GENERATE_STREAMS]
  ])('gives a connection no more streams of %s than a client needs', async (protocol, most) => {
    const streams = await Promise.all(
      Array.from({ length: most + 2 }, async () => await attacker.stream(protocol).catch(() => undefined))
    )
    await vi.waitFor(() => {
      expect(streams.filter((stream) => stream?.status === 'open').length).toBeLessThanOrEqual(most)
    }, 20_000)
    for (const stream of streams) stream?.abort(new Error('enough'))
  })

  it('frees the caches of a client that vanishes', async () => {
    const sessions = await Promise.all([attacker.generation(), attacker.generation()])
    for (const session of sessions) {
      await session.send(generate.fromClient(begin()))
      await session.receive(AbortSignal.timeout(10_000))
      await session.send(generate.fromClient(some(0, 4)), [rows(4)])
    }
    expect(federation.server.daemon.status().generation).toMatchObject({ sequences: 2 })
    for (const session of sessions) session.abort(new Error('gone'))
  })

  it.each([TRAIN_PROTOCOL, GENERATE_PROTOCOL, HANDOVER_PROTOCOL])('survives any bytes that are rightly sealed on %s', async (protocol) => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.uint8Array({ maxLength: 300 }), { minLength: 1, maxLength: 3 }), async (bodies) => {
        const end = await attacker.sealed(protocol, ...bodies)
        // The server refuses with a frame that says why, or with a reset; it does not leave the stream open.
        if (end instanceof Error) expect(end).not.toMatchObject({ code: 'E_CHANNEL_TIMEOUT' })
        else expect(end).toBeGreaterThan(0)
      }),
      { numRuns: 12 }
    )
  })

  it.each(PROTOCOLS)('survives any bytes at the start of a stream of %s', async (protocol) => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), async (bytes) => {
        const stream = await attacker.stream(protocol)
        const source = new StreamSource(stream, 30_000)
        stream.send(bytes)
        await stream.close()
        // The server ends the stream by itself, with an answer, a reason or a reset.
        await (async () => {
          for await (const chunk of source) void chunk
        })().catch(() => {})
      }),
      { numRuns: 8 }
    )
  })

  it('serves the others while streams are open on which nothing is said', async () => {
    const streams = await Promise.all(
      [TRAIN_PROTOCOL, GENERATE_PROTOCOL, protocolId('weights'), protocolId('status')].flatMap((protocol) => [protocol, protocol]).map(
        async (protocol) =>
          await attacker.stream(protocol)
      )
    )
    expect((await honest()).loss).toBe(calm.loss)
    for (const stream of streams) stream.abort(new Error('enough'))
  })

  it('keeps no answers for a client that asks and does not read', async () => {
    const channel = await attacker.training()
    let sent = 0
    void (async () => {
      for (; sent < 20_000; sent++) await channel.send(train.fromClient({ case: 'fetchAdapters', value: {} }))
    })().catch(() => {})
    let before = -1
    while (before !== sent) {
      before = sent
      await new Promise((resolve) => {
        setTimeout(resolve, 500)
      })
    }
    // Either way a stream holds no more than its window and the queue above it: the answers are not made before there is room for them.
    expect(memoryBytes() - calmMemoryBytes).toBeLessThan(MEMORY_BOUND_BYTES)
    expect((await honest()).loss).toBe(calm.loss)
    channel.abort(new Error('enough'))
  })
})
