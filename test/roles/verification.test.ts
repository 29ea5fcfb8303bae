import { writeFile } from 'node:fs/promises'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import type { ResultOf } from '../../src/api/operations.ts'
import type { StageCheck } from '../../src/api/stage-checks.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { updateConfig } from '../../src/node/home/settings.ts'
import { SealedChannel } from '../../src/protocols/wire/sealed-channel.ts'
import { GenerationEngine } from '../../src/roles/server/generation/engine.ts'
import { float32 } from '../../src/tensor.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { original } from '../helpers/original.ts'
import type { RoundEvent, TestPeer } from './helpers.ts'
import { connectedTo, startWorkers, type WorkersFederation } from './workers.ts'

const MODEL = 'stories260K-hf'
const BOS = 1

/** Of three servers each has a part in the check of a text with two thirds of probability. */
const MOST_TEXTS = 20

/** Texts that are checked while adapters change, and rounds that change them, at least. */
const LEAST_TEXTS = 3
const LEAST_ROUNDS = 15

type Result = ResultOf<'generate'>

/** Has that engine answer something else which is the first to compute the workers' blocks from now on. */
function falsify (change: (values: Float32Array, answer: number) => Float32Array): void {
  let answers = 0
  const liars = new Set<GenerationEngine>()
  const compute = original(GenerationEngine, 'compute')
  vi.spyOn(GenerationEngine.prototype, 'compute').mockImplementation(async function (this: GenerationEngine, sequence, ...more) {
    const outputs = await compute.call(this, sequence, ...more)
    if (sequence.span.first !== 2) return outputs
    if (liars.size === 0) liars.add(this)
    return liars.has(this) ? [float32(outputs[0]!.shape, change(outputs[0]!.data as Float32Array, answers++))] : outputs
  })
}

describe.skipIf(!hasData(MODEL))('a client that checks its servers', { timeout: 120_000 }, () => {
  let federation: WorkersFederation
  const checksOf = ({ checks = [] }: Result): Map<string, StageCheck> => new Map(checks.map((check) => [`${check.blocks.first}-${check.blocks.end}`, check]))
  const generate = async (parameters: object = {}): Promise<Result> =>
    await federation.clients[0]!.peer.ask<Result>('generate', { ids: [BOS], maxTokens: 40, verify: 1, ...parameters })
  const status = (): ResultOf<'status'> => federation.clients[0]!.peer.daemon.status()
  const workerOf = ({ route }: Result): string => route.find(({ blocks }) => blocks.first === 2)!.server
  const restart = async (peer: TestPeer): Promise<void> => {
    await peer.stop()
    await peer.start()
    await connectedTo(federation.clients[0]!.peer, 4)
  }

  beforeAll(async () => {
    federation = await startWorkers({ model: dataPath(MODEL), clients: [{}, {}], charter: { learningRate: 0.02 } }, {
      founder: { first: 1, end: 2 },
      workers: [{ first: 2, end: 4 }, { first: 2, end: 4 }, { first: 2, end: 4 }]
    })
  }, 120_000)
  afterEach(() => { vi.restoreAllMocks() })
  afterAll(async () => { await federation.stop() })

  it('does so only where it is asked to', async () => {
    const { checks, route } = await generate({ verify: 0 })
    expect(checks).toBeUndefined()
    expect(route.map(({ handsOver }) => handsOver)).toEqual([true, false])
    expect((await federation.clients[0]!.generate({ ids: [BOS], maxTokens: 5 }))).not.toHaveProperty('checks')
    expect(status().verification).toMatchObject({ share: 0, checked: 0, unchecked: 0, caught: [] })
  })

  it('finds that honest ones computed the same, and that a single one cannot be checked', async () => {
    for (const sampling of [{}, { temperature: 0.9, seed: 3 }, { temperature: 1, seed: 4 }]) {
      const checks = checksOf(await generate(sampling))
      const check = checks.get('2-4')!
      expect(check).toMatchObject({ verdict: 'agrees', wrong: null, tokens: 40 })
      expect(check.greatest!).toBeLessThan(1e-4)
      expect(check.by[0]).not.toBe(check.server)
      expect(checks.get('1-2')).toMatchObject({ verdict: 'unchecked', reason: 'nobody else serves blocks 1-2' })
    }
    expect(status().verification).toMatchObject({ checked: 3, tokens: 120, differing: 0, unchecked: 3, caught: [] })
  })

  it('accuses nobody while adapters change, and finds after training that they are the same everywhere', async () => {
    const data = federation.path('notes.txt')
    await writeFile(data, 'Once upon a time there was a cat who liked to train. '.repeat(60))
    const enough = new AbortController()
    let rounds = 0
    const training = (async () => {
      for await (const event of federation.clients[1]!.peer.events('train', { data, rounds: 10_000, maxTokens: 48, sequences: 4 }, enough.signal))
        if ((event as RoundEvent).type === 'round') rounds++
    })()
    const verdicts: string[] = []
    // Training goes on until both have had their share, however busy the machine is. One that fails ends the test.
    for (let seed = 0; verdicts.length < LEAST_TEXTS || rounds < LEAST_ROUNDS; seed++) {
      const text = generate({ maxTokens: 10, temperature: 1, seed })
      await Promise.race([text, training])
      verdicts.push(checksOf(await text).get('2-4')!.verdict)
    }
    enough.abort()
    await expect(training).rejects.toThrow()
    expect(verdicts.filter((verdict) => verdict !== 'agrees' && verdict !== 'unchecked')).toEqual([])
    await expect.poll(async () => checksOf(await generate()).get('2-4'), { timeout: 60_000 }).toMatchObject({ verdict: 'agrees', tokens: 40 })
    expect(status().verification!.caught).toEqual([])
  })

  /** Generates until the answers of a server were compared with another's, and returns the check. */
  const checkOf = async ({ peerId }: TestPeer): Promise<StageCheck> => {
    for (let seed = 0; seed < MOST_TEXTS; seed++) {
      const check = checksOf(await generate({ temperature: 1, seed })).get('2-4')!
      if (check.server === peerId || check.by.includes(peerId)) return check
    }
    throw new Error(`${peerId} was not in ${MOST_TEXTS} checks`)
  }

  it('does not accuse a server that says that it has int4 weights, and finds one that says it has fp16', async () => {
    const server = federation.workers[0]!
    await updateConfig(homeAt(server.home), { weights: 'int4' })
    await restart(server)
    const honest = await checkOf(server)
    expect(honest).toMatchObject({ verdict: 'agrees', wrong: null })
    expect(honest.distance!).toBeGreaterThan(0.01)
    const send = original(SealedChannel, 'send')
    vi.spyOn(SealedChannel.prototype, 'send').mockImplementation(async function (this: SealedChannel<never, never>, message, ...more) {
      const { kind } = message as { kind?: { case?: string, value?: { weights?: string } } }
      if (kind?.case === 'ready' && kind.value?.weights === 'int4') kind.value.weights = 'fp16'
      await send.call(this, message, ...more)
    })
    expect(await checkOf(server)).toMatchObject({ verdict: 'wrong', wrong: server.peerId })
    expect(status().verification!.caught).toMatchObject([{ server: server.peerId, blocks: { first: 2, end: 4 } }])
    for (let seed = 0; seed < 3; seed++) expect(workerOf(await generate({ verify: 0, temperature: 1, seed }))).not.toBe(server.peerId)
  })

  it('leaves it out also after a restart, and with two servers left says that they differ, without leaving one out', async () => {
    const [caught] = federation.workers
    await updateConfig(homeAt(federation.clients[0]!.home), { verify: 1 })
    await restart(federation.clients[0]!.peer)
    expect(status().verification!.caught).toMatchObject([{ server: caught!.peerId }])
    // One answer of fifty, of a text of forty tokens in forty answers: in one of the first two texts.
    falsify((values, answer) => answer % 50 === 17 ? values.map((value) => -value) : values)
    const events = await Array.fromAsync(federation.clients[0]!.peer.events('generate', { ids: [BOS], maxTokens: 40, verify: 1 })) as Array<
      { readonly type: string, readonly reason: string }
    >
    const check = checksOf(events.at(-1) as unknown as Result).get('2-4')!
    expect(check).toMatchObject({ verdict: 'differs', wrong: null })
    expect(check.greatest!).toBeCloseTo(2, 3)
    expect(new Set([check.server, ...check.by])).toEqual(new Set(federation.workers.slice(1).map(({ peerId }) => peerId)))
    expect(events.some(({ type, reason }) => type === 'waiting' && reason.includes('do not agree on blocks 2-4'))).toBe(true)
    expect(status().verification!.caught).toHaveLength(1)
  })

  it('does so after a text, in the background, where the home says so', async () => {
    const { checked } = status().verification!
    const result = await generate({ verify: undefined })
    expect(result).not.toHaveProperty('checks')
    await expect.poll(() => status().verification!.checked, { timeout: 20_000 }).toBe(checked + 1)
    expect(status().verification!.share).toBe(1)
  })

  it('never has them hand over, also in texts that are not checked: they would know which these are', async () => {
    const opened: Array<{ readonly to: unknown, readonly from: unknown }> = []
    const send = original(SealedChannel, 'send')
    vi.spyOn(SealedChannel.prototype, 'send').mockImplementation(async function (this: SealedChannel<never, never>, message, ...more) {
      const { kind } = message as { kind?: { case?: string, value?: { to: unknown, from: unknown } } }
      if (kind?.case === 'begin') opened.push(kind.value!)
      await send.call(this, message, ...more)
    })
    for (const parameters of [{ verify: undefined }, { verify: 0 }, { verify: 0, handOver: true }]) {
      const { route } = await generate(parameters)
      expect(route.map(({ handsOver }) => handsOver)).toEqual([false, false])
    }
    expect(opened.length).toBeGreaterThanOrEqual(6)
    for (const { to, from } of opened) expect([to, from]).toEqual([undefined, undefined])
  })
})
