import { writeFile } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { fromClient } from '../../src/protocols/train/messages.ts'
import { shapesOf } from '../../src/roles/charter-settings.ts'
import { FederatedAdapters } from '../../src/roles/training/aggregation/federated-adapters.ts'
import { float32, type Tensor } from '../../src/tensor.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { Attacker } from './attacker.ts'
import { devices } from './devices.ts'
import { adapterTensors, startFederation, type RoundEvent, type TestFederation } from './helpers.ts'

vi.mock('../../src/model/runtime/worker-device.ts', async (load) => await (await import('./devices.ts')).noting(load))

const MODEL = 'stories260K-hf'
const TIMEOUT_MS = 180_000
const HIDDEN = 64
const ROWS = 12
const MIDDLE = { first: 1, end: 4 }
const ROUNDS = 30
/** Honest gradients are sums over some fifty tokens, of the order of one. */
const OVERFLOW = 1e4
/** Long beside a round of this model, which takes a tenth of a second; short enough to wait for it several times. */
const DEADLINE_MS = 2_500

const BLOCKS = 5
const filled = (value: number): Tensor => float32([ROWS, HIDDEN], new Float32Array(ROWS * HIDDEN).fill(value))
const randomRows = (count = ROWS): Tensor =>
  float32([count, HIDDEN], Float32Array.from({ length: count * HIDDEN }, () => Math.random() - 0.5))

/** How far a client goes in a round before it is gone. */
const stages = ['begin', 'hidden', 'gradient'] as const

/** Enlists, follows a round up to this stage of its last pass, and vanishes without a word. Resolves with the round. */
async function vanishAt (attacker: Attacker, stage: typeof stages[number], passes: number): Promise<number> {
  const channel = await attacker.training()
  await channel.send(fromClient({ case: 'enlist', value: { middle: MIDDLE, round: 0 } }))
  for (;;) {
    const { message: { kind } } = await channel.receive(AbortSignal.timeout(60_000))
    if (kind.case !== 'begin' && kind.case !== 'hidden' && kind.case !== 'gradient') continue
    const { round } = kind.value
    const pass = kind.case === 'begin' ? 0 : kind.value.pass
    if (kind.case === stage && (stage === 'begin' || pass === passes - 1)) {
      channel.abort(new Error('gone'))
      return round
    }
    if (kind.case === 'begin') await channel.send(fromClient({ case: 'forward', value: { round, lengths: [ROWS] } }), [randomRows()])
    if (kind.case === 'hidden') await channel.send(fromClient({ case: 'backward', value: { round, pass, tokens: ROWS } }), [randomRows()])
    if (kind.case === 'gradient')
      await channel.send(fromClient({ case: 'forward', value: { round, pass: pass + 1, lengths: [ROWS] } }), [randomRows()])
  }
}

/** A member's answers in a round; by default those that the protocol expects. */
interface Answers {
  readonly hidden?: Tensor
  readonly gradient?: Tensor
  readonly named?: (round: number) => number
  readonly names?: (names: readonly string[]) => string[]
}

/** Takes part in one round with these answers, the gradient in the last pass. Resolves with what it is told in the end. */
async function takePart (
  attacker: Attacker,
  passes: number,
  { hidden = randomRows(), gradient = randomRows(), named = (round) => round, names = (all) => [...all] }: Answers
): Promise<{ leftOut: boolean } | { code: string }> {
  const shapes = shapesOf(attacker.context.charter, [{ first: 0, end: MIDDLE.first }, { first: MIDDLE.end, end: BLOCKS }])
  const channel = await attacker.training()
  await channel.send(fromClient({ case: 'enlist', value: { middle: MIDDLE, round: 0 } }))
  try {
    for (let begun = false; ;) {
      const { message: { kind } } = await channel.receive(AbortSignal.timeout(60_000))
      if (kind.case === 'begin') {
        begun = true
        await channel.send(fromClient({ case: 'forward', value: { round: named(kind.value.round), lengths: [ROWS] } }), [hidden])
      }
      if (kind.case === 'hidden') {
        const { round, pass } = kind.value
        await channel.send(fromClient({ case: 'backward', value: { round, pass, tokens: ROWS } }), [
          pass === passes - 1 ? gradient : randomRows()
        ])
      }
      if (kind.case === 'gradient' && kind.value.pass < passes - 1) {
        await channel.send(
          fromClient({ case: 'forward', value: { round: kind.value.round, pass: kind.value.pass + 1, lengths: [ROWS] } }),
          [hidden]
        )
      } else if (kind.case === 'gradient') {
        await channel.send(
          fromClient({ case: 'contribution', value: { round: kind.value.round, names: names(shapes.map(({ name }) => name)) } }),
          shapes.map(({ shape }) => float32(shape, new Float32Array(shape.reduce((a, b) => a * b, 1))))
        )
      }
      if (kind.case === 'step' && begun) {
        channel.abort(new Error('enough'))
        return { leftOut: kind.value.leftOut }
      }
    }
  } catch (error) {
    return { code: (error as { code: string }).code }
  }
}

describe.skipIf(!hasData(MODEL)).each([[1, 0], [2, 0.1]])('clients that vanish from rounds of %d passes with dropout %d', {
  timeout: TIMEOUT_MS
}, (passes, loraDropout) => {
  let expected: Map<string, Tensor>
  let federation: TestFederation
  let attacker: Attacker
  /** What the server's device holds after training without an attacker. */
  let expectedBytes: number

  /** A federation of two honest clients; peer ids are the same each time, so that sums have the same order. */
  async function start (): Promise<TestFederation> {
    const started = await startFederation({
      model: dataPath(MODEL),
      identities: 'vanish',
      clients: [{}, { inputBlocks: 2 }],
      charter: { minClients: 2, roundDeadline: DEADLINE_MS, maxTokensPerClient: 128, accumulate: passes, loraDropout }
    })
    for (const index of [0, 1])
      await writeFile(
        started.path(`${index}.txt`),
        Array.from({ length: 30 }, (_, i) => `Client ${index} counted ${i * (index + 1)} stars over the sea.`).join('\n\n')
      )
    return started
  }

  /** Both honest clients train; `onRound` is told of the first one's rounds and may take its time. */
  async function train (onRound: (event: RoundEvent) => void = () => {}): Promise<Array<Map<string, Tensor>>> {
    const following = federation.clients.map(async (client, index) => {
      for await (
        const event of client.peer.events('train', {
          data: federation.path(`${index}.txt`),
          rounds: ROUNDS,
          maxTokens: 24,
          sequences: 2,
          fresh: true
        })
      ) {
        if (index === 0 && (event as RoundEvent).type === 'round') onRound(event as RoundEvent)
      }
    })
    await Promise.all(following)
    return await Promise.all(
      federation.clients.map(async (client, index) => adapterTensors(await client.export(federation.path(`out-${index}-${Date.now()}`))))
    )
  }

  beforeAll(async () => {
    devices.length = 0
    federation = await start()
    expected = (await train())[0]!
    expectedBytes = (await devices[0]!.memory()).heldBytes
    await federation.stop()
  }, TIMEOUT_MS)
  afterAll(async () => {
    vi.restoreAllMocks()
    await federation.stop()
  })

  it('leave the others\' results and the device as they would be without them, whenever they go and whatever they answer', async () => {
    devices.length = 0
    federation = await start()
    attacker = await Attacker.join(federation, 'attacker')
    // The model is too small for gradients of a permitted size to overflow in it: what is far beyond the honest ones stands for that.
    vi.spyOn(FederatedAdapters.prototype, 'isSummable').mockImplementation(async (gradients) => {
      const values = await Promise.all([...gradients.values()].map(async (gradient) => await devices[0]!.download(gradient)))
      return values.every(({ data }) => (data as Float32Array).every((value) => Math.abs(value) < OVERFLOW))
    })
    let attack: Promise<void> | undefined
    const told: unknown[] = []
    const results = await train(({ round }) => {
      if (round < 1) return
      attack ??= (async () => {
        for (const stage of stages) await vanishAt(attacker, stage, passes)
        told.push(await takePart(attacker, passes, { named: (round) => round + 7 }))
        told.push(await takePart(attacker, passes, { gradient: filled(1e9) }))
        // A client that comes back takes its round up where it left it, so these two are in one round, and neither sees it through.
        told.push(await takePart(attacker, passes, { names: (names) => names.map((name) => name.replace(/^0\./, '2.')) }))
        told.push(await takePart(attacker, passes, { gradient: filled(Number.NaN) }))
      })()
    })
    await attack
    expect(told).toEqual([{ leftOut: true }, { leftOut: true }, { code: 'E_BAD_MESSAGE' }, { code: 'E_BAD_MESSAGE' }])
    expect(federation.server.daemon.status().training).toMatchObject({ round: ROUNDS })
    for (const adapters of results) {
      expect(adapters.size).toBe(expected.size)
      for (const [name, { data }] of adapters) expect(data, name).toEqual(expected.get(name)!.data)
    }
    expect((await devices[0]!.memory()).heldBytes).toBe(expectedBytes)
  })
})
