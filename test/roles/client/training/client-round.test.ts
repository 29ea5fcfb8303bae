import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import { sequencesOf } from '../../../../src/model/layers/hidden-states.ts'
import type { Device, DeviceTensor } from '../../../../src/model/runtime/device.ts'
import { Scope } from '../../../../src/model/runtime/scope.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import type { ClientProtection } from '../../../../src/roles/charter-settings.ts'
import { Sequence } from '../../../../src/roles/client/generation/sequence.ts'
import { Releases } from '../../../../src/roles/client/training/releases.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'
import { baseWeights, loraWeights, readModelGolden, relativeError } from '../../../helpers/golden.ts'
import { memorySource } from '../../../helpers/source.ts'
import { SplitTrainer, UNCOUNTED, type SplitTrainerOptions } from './split-trainer.ts'

const golden = readModelGolden('llama/gqa')
const model = modelOf(golden.config)
const START = { epoch: 0, index: 0 }

/** A text of which each token follows from the one before. */
const data = [{ ids: Int32Array.from({ length: 400 }, (_, i) => 3 + (i * i) % 23), lossMask: new Uint8Array(400).fill(1) }]

const protectedBy = (noise: number, keepsStream: boolean, clip: number | null = 2): ClientProtection => ({
  hidden: { clip, noise }, gradient: { clip, noise }, keepsStream
})

const signal = AbortSignal.timeout(60_000)

describe('a client in a round', () => {
  let device: Device
  beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
  afterEach(() => { vi.restoreAllMocks() })
  afterAll(async () => { await device.close() })

  async function trainer (protection: ClientProtection, options: Partial<SplitTrainerOptions> = {}): Promise<SplitTrainer> {
    return await SplitTrainer.load(device, {
      model,
      source: memorySource(baseWeights(golden)),
      adapters: { ...golden.lora, dropout: 0, rslora: false, seed: '00' },
      protection,
      tokens: 16,
      sequences: 4,
      data,
      ...options
    })
  }

  /** Adapters of which nothing is zero. */
  async function setAdapters (at: SplitTrainer): Promise<Map<string, Tensor>> {
    const values = new Map([...loraWeights(golden)].filter(([name]) => at.ends.names.includes(name)))
    await at.ends.restore(values)
    return values
  }

  const sum = (values: ArrayLike<number>, map: (value: number) => number): number =>
    Array.from(values).reduce((total, value) => total + map(value), 0)

  async function downloaded (gradients: ReadonlyMap<string, DeviceTensor>): Promise<Map<string, Float32Array>> {
    const host = new Map<string, Float32Array>()
    for (const [name, gradient] of gradients) host.set(name, (await device.download(gradient)).data as Float32Array)
    device.free(...gradients.values())
    return host
  }

  it('has the derivative of its loss where rows are clipped and the residual stream stays', async () => {
    // The gradient that leaves is not clipped here: its clip is no part of the derivative.
    const at = await trainer({ ...protectedBy(0, true, 0.5), gradient: { clip: null, noise: 0 } })
    const before = await setAdapters(at)
    const { ends, middle, tokens } = await at.pass(START)
    device.free(...middle.values())
    const gradients = await downloaded(ends)
    // The derivative in the gradient's own direction is its norm.
    const bottom = [...gradients].filter(([name]) => name.startsWith('0.'))
    const norm = Math.sqrt(bottom.reduce((total, [, values]) => total + sum(values, (value) => value * value), 0))
    const lossAt = async (step: number): Promise<number> => {
      await at.ends.restore(new Map(bottom.map(([name, gradient]) => {
        const { shape, data } = before.get(name)!
        return [name, float32(shape, gradient.map((value, i) => (data[i] as number) + step * value / norm))]
      })))
      const moved = await at.pass(START)
      device.free(...moved.ends.values(), ...moved.middle.values())
      return moved.loss * tokens
    }
    const step = 1e-2
    expect(norm).toBeGreaterThan(1e-2)
    expect((await lossAt(step) - await lossAt(-step)) / (2 * step) / norm).toBeCloseTo(1, 2)
  })

  it('computes the same in a round, in an evaluation and in generation', async () => {
    for (const [wire, clip] of [['fp32', 0.5], ['fp16', 0.5], ['fp16', null]] as const) {
      const at = await trainer(protectedBy(0, true, clip), { wire, sequences: 1 })
      await setAdapters(at)
      const { batch } = at.batches.at(START)
      const { loss, ends, middle } = await at.pass(START)
      device.free(...ends.values(), ...middle.values())
      expect(await at.evaluate(at.batches, 1)).toBeCloseTo(loss, 5)

      using scope = new Scope(device)
      const { hidden } = await at.client.bottom.forward(batch.ids, { keepResiduals: false })
      scope.own(hidden)
      const { tensors } = await at.boundary.protect(hidden, at.protection.hidden)
      const sequences = sequencesOf(model, batch.ids)
      const back = await at.boundary.decoding(await at.middle.evaluate({ id: 'a', ...at.middle.span, ...sequences, tensors }))
      const whole = scope.own(await at.boundary.computed(await at.boundary.keepStream(hidden, tensors, back)))
      const expected = await at.client.top.logits({ hidden: whole, ...sequences }, batch.ids[0]!.keys().toArray())
      const { weights } = at.client
      const sequence = await Sequence.open({ weights, boundary: at.boundary, route: at.middle, ledger: UNCOUNTED }, {
        protection: at.protection.hidden, keepsStream: true, partition: { inputBlocks: 1, outputBlocks: 1 }, capacity: 32, text: 'text'
      }, signal)
      const vocabulary = model.vocabularySize
      const ids = batch.ids[0]!
      for (const [prompt, last] of [[ids.slice(0, 5), 4], [[ids[5]!], 5], [ids.slice(6, 9), 8]] as const) {
        const logits = await sequence.next(prompt, { guess: false }, signal)
        const row = (expected.data as Float32Array).subarray(last * vocabulary, (last + 1) * vocabulary)
        expect(relativeError(logits, row)).toBeLessThan(2e-3)
      }
      await sequence.close()
    }
  })

  it('generates the same where the likeliest token is taken on before it is chosen', async () => {
    const at = await trainer(protectedBy(0, true, 0.5))
    await setAdapters(at)
    const ids = [[1, 5, 9], [], [], []]
    const runs: number[][] = []
    for (const guess of [false, true]) {
      const sequence = await Sequence.open({ weights: at.client.weights, boundary: at.boundary, route: at.middle, ledger: UNCOUNTED }, {
        protection: at.protection.hidden, keepsStream: true, partition: { inputBlocks: 1, outputBlocks: 1 }, capacity: 32, text: 'text'
      }, signal)
      const chosen: number[] = []
      for (const prompt of ids) {
        const logits = await sequence.next(prompt.length > 0 ? prompt : [chosen.at(-1)!], { guess }, signal)
        chosen.push(logits.indexOf(Math.max(...logits)))
      }
      await sequence.close()
      runs.push(chosen)
    }
    expect(runs[1]).toEqual(runs[0])
  })

  /** Returns the loss after some rounds under this protection. */
  async function trainedUnder (protection: ClientProtection, rounds = 12): Promise<number> {
    const at = await trainer(protection)
    for (let round = 0; round < rounds; round++) await at.step(1e-2)
    return await at.evaluate(at.batches)
  }

  it('learns more under noise where the residual stream stays', async () => {
    const [kept, sent] = [await trainedUnder(protectedBy(0.5, true)), await trainedUnder(protectedBy(0.5, false))]
    expect(kept).toBeLessThan(sent)
  })

  it('learns more by the gradient of the clip than by one that passes the clip straight through', async () => {
    // Without noise, so that no draw decides.
    const protection = { ...protectedBy(0, false, 0.5), gradient: { clip: null, noise: 0 } }
    const through = await trainedUnder(protection, 30)
    vi.spyOn(Releases.prototype, 'clips').mockReturnValue(false)
    const straight = await trainedUnder(protection, 30)
    expect(through).toBeLessThan(straight)
  })

  it('frees all that a pass takes', async () => {
    const at = await trainer(protectedBy(0.5, true))
    const heldAfter = async (): Promise<number> => {
      const { ends, middle } = await at.pass(START)
      device.free(...ends.values(), ...middle.values())
      return (await device.memory()).heldBytes
    }
    const first = await heldAfter()
    expect(await heldAfter()).toBe(first)
  })
})
