import { setImmediate } from 'node:timers/promises'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { streamPair } from '@libp2p/utils'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import { trainedShapes } from '../../../../src/model/layers/trainable.ts'
import { ModelWeights } from '../../../../src/model/layers/weights.ts'
import { Boundary } from '../../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { TrainableSpan } from '../../../../src/model/training/trainable-span.ts'
import type { Charter } from '../../../../src/protocols/charter/schema.ts'
import {
  MAX_DROPOUT_SEED_CHARS,
  MAX_ITEM_ID_CHARS,
  MAX_STAGE_ITEMS,
  MAX_STAGE_TOKENS,
  STAGE_PROTOCOL
} from '../../../../src/protocols/stage/constants.ts'
import {
  CoordinatorMessageSchema,
  fromCoordinator,
  fromWorker,
  WorkerMessageSchema,
  type Question,
  type StageCoordinatorChannel,
  type StageWorkerChannel
} from '../../../../src/protocols/stage/messages.ts'
import { acceptChannel, openChannel } from '../../../../src/protocols/wire/channel.ts'
import { stageLimits } from '../../../../src/roles/message-limits.ts'
import { LocalStage } from '../../../../src/roles/middle/local-stage.ts'
import type { BatchItem } from '../../../../src/roles/middle/stage.ts'
import { itemFields } from '../../../../src/roles/server/training/stage-items.ts'
import { StageSession } from '../../../../src/roles/server/training/stage-session.ts'
import { WorkerAdapters } from '../../../../src/roles/server/training/worker-adapters.ts'
import { WorkerLink } from '../../../../src/roles/server/training/worker-link.ts'
import { WorkerSilentError } from '../../../../src/roles/server/training/worker-session.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'
import { charter as charterHash, identityOf } from '../../../helpers/channels.ts'
import { baseWeights, formulaWeight, relativeError } from '../../../helpers/golden.ts'
import { memorySource } from '../../../helpers/source.ts'
import { shapesOf, TINY_CONFIG } from '../../../helpers/tiny-model.ts'

const model = modelOf(TINY_CONFIG)
const SPAN = { first: 1, end: 3 }
const SEED = 'round/3'
const trainable = { r: 4, alpha: 8, targets: ['q_proj', 'v_proj'], dropout: 0.3, rslora: false, seed: '00' }
const shapes = trainedShapes(model, trainable, SPAN)

/** What of a charter the stage protocol looks at. */
const charter = {
  wire: 'fp32',
  model: { hidden: model.hiddenSize, blocks: model.layers },
  training: { maxTokensPerClient: 64 },
  limits: { maxSequenceTokens: 64, maxClients: 2 }
} as Charter

function rows (name: string, count: number): Tensor[] {
  return [float32([count, model.hiddenSize], formulaWeight(name, 'rows', [count, model.hiddenSize]).data as Float32Array)]
}

function itemOf (id: string, count: number, { first, end } = SPAN): BatchItem {
  return { id, first, end, lengths: [count], tensors: rows(id, count) }
}

/** Adapters that are not those that training starts with. */
function adaptersOf (round: number): { round: number, names: string[], tensors: Tensor[] } {
  return {
    round,
    names: shapes.map(({ name }) => name),
    tensors: shapes.map(({ name, shape }) => float32(shape, formulaWeight(`round ${round}`, name, shape).data as Float32Array))
  }
}

const signal = new AbortController().signal
const items = [itemOf('a', 5), itemOf('b', 3, { first: 2, end: 3 }), itemOf('c', 2)]
const gradients = new Map(items.map(({ id, tensors }) => [id, { tensors: rows(`gradient of ${id}`, tensors[0]!.shape[0]!) }]))

describe('a worker behind a stage stream', () => {
  let device: Device
  let worker: LocalStage
  let weights: ModelWeights
  /** The same blocks with the adapters of round 3, without a stream between. */
  let here: LocalStage
  let round: number
  let channels: StageCoordinatorChannel[] = []

  async function stageOf (): Promise<{ stage: LocalStage, weights: ModelWeights }> {
    const source = memorySource(baseWeights({ seed: 'tiny', shapes: shapesOf(TINY_CONFIG) }))
    const weights = new ModelWeights(device, model, trainable)
    const span = await TrainableSpan.load(device, model, source, SPAN, trainable, { weights })
    return { stage: new LocalStage({ device, span, boundary: new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' }) }), weights }
  }

  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    ;({ stage: worker, weights } = await stageOf())
    const own = await stageOf()
    const { names, tensors } = adaptersOf(3)
    await own.weights.setTrained(new Map(names.map((name, index) => [name, tensors[index]!])))
    here = own.stage
  })
  afterAll(async () => { await device.close() })
  afterEach(() => {
    for (const channel of channels) channel.abort(new Error('the test is over'))
    channels = []
  })

  async function pair (): Promise<[StageCoordinatorChannel, StageWorkerChannel]> {
    const [outbound, inbound] = await streamPair({ protocol: STAGE_PROTOCOL })
    const [mine, theirs] = await Promise.all([identityOf(1), identityOf(2)])
    const common = { protocol: STAGE_PROTOCOL, charter: charterHash, limits: stageLimits(charter, shapes), idleTimeoutMs: Infinity }
    const [coordinator, channel] = await Promise.all([
      openChannel(outbound, {
        ...common,
        outgoing: CoordinatorMessageSchema,
        incoming: WorkerMessageSchema,
        identity: mine,
        remotePeer: peerIdFromPrivateKey(theirs)
      }),
      acceptChannel(inbound, {
        ...common,
        outgoing: WorkerMessageSchema,
        incoming: CoordinatorMessageSchema,
        identity: theirs,
        remotePeer: peerIdFromPrivateKey(mine)
      })
    ])
    channels.push(coordinator)
    return [coordinator, channel]
  }

  /** A stream to the worker. What ends it is what the coordinator's side hears. */
  async function stream (): Promise<StageCoordinatorChannel> {
    const [coordinator, channel] = await pair()
    const session = new StageSession(channel, { charter, model, device, stage: worker, adapters: new WorkerAdapters(weights, shapes) })
    session.run(signal).catch((error: unknown) => { channel.abort(error as Error) })
    return coordinator
  }

  function linkTo (open: () => Promise<StageCoordinatorChannel>, timeoutMs = 60_000): WorkerLink {
    round = 3
    return new WorkerLink({
      peer: 'worker',
      span: SPAN,
      open,
      adapters: { get round () { return round }, of: async () => adaptersOf(round) },
      device,
      format: { wire: 'fp32', hidden: model.hiddenSize },
      shapes,
      timeoutMs,
      announcedSpeed: () => undefined
    })
  }

  it('computes forward, backward and adapter gradients as a stage here does', async () => {
    const local = await here.forward(items, { dropoutSeed: SEED })
    const expected = await local.backward(gradients)
    const pass = await linkTo(stream).forward(items, { dropoutSeed: SEED }, signal)
    const inputs = await pass.backward(gradients, signal)
    const collected = await pass.collect(signal)
    for (const { id } of items) {
      expect(pass.hidden.get(id)![0]!.data).toEqual(local.hidden.get(id)![0]!.data)
      expect(inputs.get(id)![0]!.data).toEqual(expected.get(id)![0]!.data)
    }
    expect(collected.isFinite).toBe(true)
    expect([...collected.gradients.keys()].sort()).toEqual(shapes.map(({ name }) => name).sort())
    for (const [name, gradient] of local.adapterGradients)
      expect((await device.download(collected.gradients.get(name)!)).data, name).toEqual((await device.download(gradient)).data)
    local.free()
    pass.free()
    device.free(...collected.gradients.values())
  })

  it('sums adapter gradients over all messages of a batch that is too long for one', async () => {
    const many = Array.from({ length: 80 }, (_, i) => itemOf(`client-${String(i).padStart(2, '0')}`, 64))
    const wide = { ...charter, limits: { ...charter.limits, maxClients: 80 } }
    const [coordinator, channel] = await pair()
    const adapters = new WorkerAdapters(weights, shapes)
    const session = new StageSession(channel, { charter: wide, model, device, stage: worker, adapters })
    session.run(signal).catch((error: unknown) => { channel.abort(error as Error) })
    const answers = new Map(many.map(({ id }) => [id, { tensors: rows(`gradient of ${id}`, 64) }]))
    const local = await here.forward(many, { dropoutSeed: SEED })
    await local.backward(answers)
    const pass = await linkTo(async () => coordinator).forward(many, { dropoutSeed: SEED }, signal)
    await pass.backward(answers, signal)
    const { gradients: sums } = await pass.collect(signal)
    for (const [name, gradient] of local.adapterGradients) {
      const [actual, expected] = await device.downloadAll([sums.get(name)!, gradient])
      expect(relativeError(actual!.data as Float32Array, expected!.data as Float32Array), name).toBeLessThan(1e-5)
    }
    local.free()
    device.free(...sums.values())
  })

  it('is brought to the round of training before it computes', async () => {
    const link = linkTo(stream)
    const before = await link.evaluate(items[0]!, signal)
    round = 4
    const after = await link.evaluate(items[0]!, signal)
    expect(after[0]!.data).not.toEqual(before[0]!.data)
    round = 3
    expect((await link.evaluate(items[0]!, signal))[0]!.data).toEqual(before[0]!.data)
  })

  it('frees on the device what its stream had it keep', async () => {
    const link = linkTo(stream)
    await link.evaluate(items[0]!, signal)
    const { heldBytes } = await device.memory()
    await link.forward(items, { dropoutSeed: SEED }, signal)
    expect((await device.memory()).heldBytes).toBeGreaterThan(heldBytes)
    link.close(new Error('the end'))
    await expect.poll(async () => (await device.memory()).heldBytes).toBe(heldBytes)
  })

  it('opens another stream where the first one broke', async () => {
    const link = linkTo(stream)
    const before = await link.evaluate(items[0]!, signal)
    channels[0]!.abort(new Error('broken'))
    await setImmediate()
    expect((await link.evaluate(items[0]!, signal))[0]!.data).toEqual(before[0]!.data)
    expect(channels).toHaveLength(2)
  })

  describe('that misbehaves', () => {
    /** A worker that takes adapters, and answers everything else with this. */
    async function answering (kind: Parameters<typeof fromWorker>[1], tensors: readonly Tensor[]): Promise<StageCoordinatorChannel> {
      const [coordinator, channel] = await pair()
      void (async () => {
        for (;;) {
          const { message: { request, kind: asked } } = await channel.receive()
          if (asked.case === 'loadAdapters') await channel.send(fromWorker(request, { case: 'loaded', value: { round: asked.value.round } }))
          else await channel.send(fromWorker(request, kind), tensors)
        }
      })().catch(() => {})
      return coordinator
    }

    it.each([
      ['rows of another count', { case: 'hidden', value: {} }, rows('x', 9)],
      ['no rows', { case: 'hidden', value: {} }, []],
      ['another answer than was asked for', { case: 'evaluated', value: {} }, rows('x', 10)],
      ['more tensors than rows are', { case: 'hidden', value: {} }, [...rows('x', 10), ...rows('y', 10)]]
    ] as const)('is found out by %s', async (_, kind, tensors) => {
      const link = linkTo(async () => await answering(kind, tensors))
      await expect(link.forward(items, { dropoutSeed: SEED }, signal)).rejects.toMatchObject({ code: 'E_BAD_MESSAGE' })
    })

    it('is given up when it says nothing', async () => {
      const link = linkTo(async () => (await pair())[0], 20)
      await expect(link.evaluate(items[0]!, signal)).rejects.toThrow(WorkerSilentError)
    })
  })

  describe('refuses', () => {
    type Asked = ReadonlyArray<readonly [Question, readonly Tensor[]]>

    /** Asks without a link. Resolves with a stream on which the adapters of round 3 are answered. */
    async function ask (questions: Asked): Promise<StageCoordinatorChannel> {
      const channel = await stream()
      const { names, tensors } = adaptersOf(3)
      await channel.send(fromCoordinator(0, { case: 'loadAdapters', value: { round: 3, names, more: false } }), tensors)
      for (const [index, [question, parts]] of questions.entries()) await channel.send(fromCoordinator(index + 1, question), parts)
      return channel
    }

    /** Resolves with the first answer after that to the adapters. */
    async function answer (questions: Asked): ReturnType<StageCoordinatorChannel['receive']> {
      const channel = await ask(questions)
      await channel.receive(AbortSignal.timeout(5_000))
      return await channel.receive(AbortSignal.timeout(5_000))
    }

    /** Resolves with the code that ends the stream. */
    async function refusal (questions: Asked): Promise<string> {
      const channel = await ask(questions)
      try {
        for (;;) await channel.receive(AbortSignal.timeout(5_000))
      } catch (error) {
        return (error as { code: string }).code
      }
    }

    const forward = (batch: readonly BatchItem[], changes: object = {}): [Question, Tensor[]] => [
      { case: 'forward', value: { round: 3, dropoutSeed: SEED, items: batch.map(itemFields), ...changes } },
      rows('x', batch.reduce((sum, { lengths }) => sum + lengths.reduce((all, length) => all + length, 0), 0))
    ]

    it.each([
      ['adapters of another round', [forward(items, { round: 4 })], 'E_ADAPTERS_OUTDATED'],
      ['no items', [forward([])], 'E_BAD_MESSAGE'],
      ['two items of one name', [forward([items[0]!, items[0]!])], 'E_BAD_MESSAGE'],
      ['an item without a name', [forward([{ ...items[0]!, id: '' }])], 'E_BAD_MESSAGE'],
      ['a name without an end', [forward([{ ...items[0]!, id: 'x'.repeat(MAX_ITEM_ID_CHARS + 1) }])], 'E_BAD_MESSAGE'],
      ['a seed without an end', [forward(items, { dropoutSeed: 'x'.repeat(MAX_DROPOUT_SEED_CHARS + 1) })], 'E_BAD_MESSAGE'],
      ['blocks that are not its own', [forward([itemOf('a', 3, { first: 0, end: 3 })])], 'E_BAD_MESSAGE'],
      ['no blocks', [forward([itemOf('a', 3, { first: 2, end: 2 })])], 'E_BAD_MESSAGE'],
      ['more tokens than a client may have', [forward([itemOf('a', 65)])], 'E_BAD_MESSAGE'],
      ['a pass back that never went', [[{ case: 'backward', value: { forward: 7, items: [0] } }, rows('x', 5)]], 'E_BAD_MESSAGE'],
      ['a pass back for nobody', [forward(items), [{ case: 'backward', value: { forward: 1, items: [] } }, []]], 'E_BAD_MESSAGE'],
      ['items out of order', [forward(items), [{ case: 'backward', value: { forward: 1, items: [1, 0] } }, rows('x', 8)]], 'E_BAD_MESSAGE'],
      ['gradients of a pass that did not go back', [forward(items), [{ case: 'collect', value: { forwards: [1] } }, []]], 'E_BAD_MESSAGE'],
      ['adapters that are not its own', [[{ case: 'loadAdapters', value: { round: 4, names: ['0.x.lora_A'], more: false } }, rows('x', 1)]], 'E_BAD_MESSAGE'],
      ['a part of the adapters in place of all', [[{ case: 'loadAdapters', value: { round: 4, names: [], more: false } }, []]], 'E_BAD_MESSAGE'],
      ['a message of no kind', [[{ case: undefined }, []]], 'E_BAD_MESSAGE']
    ] as ReadonlyArray<[string, ReadonlyArray<[Question, Tensor[]]>, string]>)('%s', async (_, questions, code) => {
      expect(await refusal(questions)).toBe(code)
    })

    it.each([
      ['items', forward(Array.from({ length: MAX_STAGE_ITEMS + 1 }, (_, i) => itemOf(String(i), 1))), `expected 1 to ${MAX_STAGE_ITEMS}`],
      ['tokens', forward(Array.from({ length: MAX_STAGE_TOKENS / 64 + 1 }, (_, i) => itemOf(String(i), 64))), `${MAX_STAGE_TOKENS} may`]
    ] as const)('more %s than a message may have', async (_, question, reason) => {
      await expect(answer([question])).rejects.toThrow(reason)
    })

    it('no names that are as long as they may be', async () => {
      const id = 'x'.repeat(MAX_ITEM_ID_CHARS)
      const { message: { kind } } = await answer([forward([{ ...items[0]!, id }], { dropoutSeed: 'x'.repeat(MAX_DROPOUT_SEED_CHARS) })])
      expect(kind.case).toBe('hidden')
    })

    it('more passes than a federation has clients for', async () => {
      expect(await refusal(Array.from({ length: 20 }, () => forward([items[0]!])))).toBe('E_TOO_MANY_PASSES')
    })

    it('a pass that goes back twice', async () => {
      const backward: [Question, Tensor[]] = [{ case: 'backward', value: { forward: 1, items: [0] } }, rows('x', 5)]
      expect(await refusal([forward(items), backward, backward])).toBe('E_BAD_MESSAGE')
    })

    it('hidden states that are not finite', async () => {
      const [question] = forward([items[0]!])
      expect(await refusal([[question, [float32([5, model.hiddenSize], new Float32Array(5 * model.hiddenSize).fill(NaN))]]])).toBe('E_BAD_MESSAGE')
    })

    it('whatever else a coordinator may say, with a code', async () => {
      const number = fc.integer({ min: 0, max: 6 })
      const item = fc.record({
        id: fc.string({ maxLength: 4 }), first: number, end: number, lengths: fc.array(number, { maxLength: 3 }),
        contextLengths: fc.array(number, { maxLength: 2 }), maskPositions: fc.array(number, { maxLength: 2 })
      })
      const question = fc.oneof(
        fc.record({ case: fc.constant('forward' as const), value: fc.record({ round: number, dropoutSeed: fc.string(), items: fc.array(item, { maxLength: 3 }) }) }),
        fc.record({ case: fc.constant('backward' as const), value: fc.record({ forward: number, items: fc.array(number, { maxLength: 3 }) }) }),
        fc.record({ case: fc.constant('collect' as const), value: fc.record({ forwards: fc.array(number, { maxLength: 3 }) }) }),
        fc.record({ case: fc.constant('evaluate' as const), value: fc.record({ round: number, item }) }),
        fc.record({ case: fc.constant('loadAdapters' as const), value: fc.record({ round: number, names: fc.array(fc.string(), { maxLength: 2 }), more: fc.boolean() }) })
      )
      await fc.assert(
        fc.asyncProperty(fc.array(fc.tuple(question, fc.integer({ min: 0, max: 8 })), { minLength: 1, maxLength: 4 }), async (asked) => {
          const last: [Question, Tensor[]] = [{ case: 'backward', value: { forward: 99, items: [0] } }, rows('x', 1)]
          const all = [...asked.map(([one, count]): [Question, Tensor[]] => [one as Question, count === 0 ? [] : rows('x', count)]), last]
          expect(await refusal(all)).toMatch(/^E_(BAD_MESSAGE|ADAPTERS_OUTDATED)$/)
        }),
        { numRuns: 40, seed: 3 }
      )
    })
  })
})
