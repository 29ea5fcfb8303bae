import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import type { Device, DeviceTensor } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { Batches } from '../../../../src/model/text/batches.ts'
import type { Example } from '../../../../src/model/text/dataset.ts'
import type { ClientProtection } from '../../../../src/roles/charter-settings.ts'
import { GATE } from '../../../../src/roles/client/training/withheld-gate.ts'
import { bytesOf, float32, type Tensor } from '../../../../src/tensor.ts'
import { baseWeights, decodeTensor, loraWeights, readModelGolden, readWithholdingGolden, relativeError } from '../../../helpers/golden.ts'
import { watchReleases } from '../../../helpers/releases.ts'
import { memorySource } from '../../../helpers/source.ts'
import { SplitTrainer, type SplitTrainerOptions } from './split-trainer.ts'

const golden = readModelGolden('llama/gqa')
const model = modelOf(golden.config)
const START = { epoch: 0, index: 0 }
const PLAIN: ClientProtection = { hidden: { clip: null, noise: 0 }, gradient: { clip: null, noise: 0 }, keepsStream: false }
const NOISED: ClientProtection = { hidden: { clip: 1, noise: 0.3 }, gradient: { clip: 1, noise: 0.3 }, keepsStream: true }

/** Texts in which every third token and the first one are withheld; these are other ones for another `word`. */
const texts = (word: number): Example[] => Array.from({ length: 4 }, (_, text) => ({
  ids: Int32Array.from({ length: TOKENS }, (_, i) => i % 3 === 0 ? 3 + (word * (i + 1)) % 23 : 3 + (i * i + text) % 23),
  lossMask: Uint8Array.from({ length: TOKENS }, (_, i) => i > 0 ? 1 : 0),
  withheld: Uint8Array.from({ length: TOKENS }, (_, i) => i % 3 === 0 ? 1 : 0)
}))

const TOKENS = 30

const unmarked = (examples: readonly Example[]): Example[] => examples.map(({ ids, lossMask }) => ({ ids, lossMask }))

describe('a client that withholds words', () => {
  let device: Device
  beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
  afterEach(() => { vi.restoreAllMocks() })
  afterAll(async () => { await device.close() })

  async function trainer (data: readonly Example[], options: Partial<SplitTrainerOptions> = {}): Promise<SplitTrainer> {
    const at = await SplitTrainer.load(device, {
      model,
      source: memorySource(baseWeights(golden)),
      adapters: { ...golden.lora, dropout: 0, rslora: false, seed: '00' },
      protection: PLAIN,
      tokens: 16,
      sequences: 3,
      data,
      ...options
    })
    await at.ends.restore(new Map([...loraWeights(golden)].filter(([name]) => at.ends.names.includes(name))))
    return at
  }

  async function downloaded (gradients: ReadonlyMap<string, DeviceTensor>): Promise<Map<string, Tensor>> {
    const host = new Map<string, Tensor>()
    for (const [name, gradient] of gradients) host.set(name, await device.download(gradient))
    device.free(...gradients.values())
    return host
  }

  /** Everything that leaves in a pass and in an evaluation, and what the client learns. */
  async function run (data: readonly Example[], options: Partial<SplitTrainerOptions> = {}): Promise<{
    released: string[], loss: number, tokens: number, ends: Map<string, Tensor>, gate: Map<string, Tensor>, evaluated: number
  }> {
    const at = await trainer(data, options)
    const released: string[] = []
    watchReleases((_, { tensors }) => { released.push(...tensors.map((part) => Buffer.from(bytesOf(part)).toString('base64'))) })
    const { ends, gate, middle, loss, tokens } = await at.pass(START)
    device.free(...middle.values())
    const evaluated = await at.evaluate(at.batches, 1)
    vi.restoreAllMocks()
    return { released, loss, tokens, ends: await downloaded(ends), gate: await downloaded(gate), evaluated }
  }

  it.each([
    ['packed', PLAIN, 'fp32'], ['padded', PLAIN, 'fp32'], ['packed', NOISED, 'fp32'], ['packed', PLAIN, 'int8']
  ] as const)('releases the same bytes whatever the withheld words are (%s)', async (packing, protection, wire) => {
    const noiseless = protection === PLAIN
    const [a, b] = [await run(texts(2), { packing, protection, wire }), await run(texts(5), { packing, protection, wire })]
    // What is released in an evaluation, after the two releases of the pass, has noise of its own each time.
    const compared = noiseless ? Infinity : 2
    expect(a.released.length).toBeGreaterThanOrEqual(3)
    expect(b.released.slice(0, compared)).toEqual(a.released.slice(0, compared))
    expect(b.tokens).toBe(a.tokens)
    expect(b.loss).not.toBe(a.loss)
  })

  it('releases what it would if the words were not in the text', async () => {
    const others = texts(2).map(({ ids, withheld }) => {
      const kept = [...ids.keys()].filter((i) => withheld![i] === 0)
      return { ids: Int32Array.from(kept, (i) => ids[i]!), lossMask: Uint8Array.from(kept, (_, at) => at > 0 ? 1 : 0) }
    })
    const [a, b] = [await run(texts(2)), await run(others)]
    expect(a.released).toEqual(b.released)
    expect(a.tokens).toBe(b.tokens)
  })

  it.each([
    ['fp32', PLAIN], ['fp16', PLAIN], ['fp16', NOISED]
  ] as const)('changes nothing where nothing is marked, bit for bit (%s)', async (wire, protection) => {
    const marked = texts(2).map((example) => ({ ...example, withheld: new Uint8Array(TOKENS) }))
    const [a, b] = [await run(marked, { wire, protection }), await run(unmarked(texts(2)), { wire, protection })]
    // The noise of an evaluation is drawn afresh.
    const isNoised = protection === NOISED
    expect(isNoised ? { ...a, released: [], evaluated: 0 } : a).toEqual(isNoised ? { ...b, released: [], evaluated: 0 } : b)
    expect(a.gate.size).toBe(0)
  })

  it('has the derivative of its loss for the gate and for the top', async () => {
    const at = await trainer(texts(2))
    const initial = await at.ends.values()
    const gateBefore = (await at.gate.values()).get(GATE)!
    const { ends, gate, middle, tokens, lossTokens } = await at.pass(START)
    device.free(...middle.values())
    const [gradients, gateGradients] = [await downloaded(ends), await downloaded(gate)]
    /** The loss in the weight that gradients have, where some values are moved along their gradient. */
    const lossAt = async (step: number, names: readonly string[], norm: number): Promise<number> => {
      await at.ends.restore(new Map(names.filter((name) => name !== GATE).map((name) =>
        [name, moved(initial.get(name)!, gradients.get(name)!, step / norm)])))
      if (names.includes(GATE)) await at.gate.restore(new Map([[GATE, moved(gateBefore, gateGradients.get(GATE)!, step / norm)]]))
      const result = await at.pass(START)
      device.free(...result.ends.values(), ...result.middle.values(), ...result.gate.values())
      await at.ends.restore(initial)
      await at.gate.restore(new Map([[GATE, gateBefore]]))
      return result.loss * tokens
    }
    expect(lossTokens).toBeGreaterThan(tokens)
    const top = [...gradients.keys()].filter((name) => !name.startsWith('0.'))
    for (const names of [[GATE], top]) {
      const norm = Math.sqrt(names.reduce((sum, name) => sum + squares(name === GATE ? gateGradients.get(name)! : gradients.get(name)!), 0))
      const step = 1e-2
      expect(norm).toBeGreaterThan(1e-3)
      expect((await lossAt(step, names, norm) - await lossAt(-step, names, norm)) / (2 * step) / norm).toBeCloseTo(1, 2)
    }
  })

  it('has the derivative of its own loss in the bottom where the client works alone', async () => {
    // The middle adds nothing: what is sent has no part in the loss.
    const at = await trainer(texts(2), { isAlone: true })
    const initial = await at.ends.values()
    const { ends, tokens } = await at.pass(START)
    const gradients = await downloaded(ends)
    const bottom = [...gradients].filter(([name]) => name.startsWith('0.'))
    const norm = Math.sqrt(bottom.reduce((sum, [, gradient]) => sum + squares(gradient), 0))
    const lossAt = async (step: number): Promise<number> => {
      await at.ends.restore(new Map(bottom.map(([name, gradient]) => [name, moved(initial.get(name)!, gradient, step / norm)])))
      const result = await at.pass(START)
      device.free(...result.ends.values(), ...result.gate.values())
      return result.loss * tokens
    }
    expect(norm).toBeGreaterThan(1e-2)
    expect((await lossAt(1e-2) - await lossAt(-1e-2)) / 2e-2 / norm).toBeCloseTo(1, 2)
  })

  it('learns what PyTorch learns', async () => {
    const reference = readWithholdingGolden()
    expect(reference.base).toBe('llama/gqa')
    const data = reference.sequences.map((ids, i): Example => ({
      ids: Int32Array.from(ids),
      lossMask: Uint8Array.from(ids, (_, at) => at > 0 ? 1 : 0),
      withheld: Uint8Array.from(ids, (_, at) => reference.withheld[i]!.includes(at) ? 1 : 0)
    }))
    const at = await trainer(data, { packing: 'padded' })
    const all = loraWeights(golden)
    await at.middleParameters.restore(new Map([...all].filter(([name]) => at.middleParameters.names.includes(name))))
    await at.gate.restore(new Map([[GATE, decodeTensor(reference.gate)]]))
    const { ends, middle, gate, loss, lossTokens } = await at.pass(START)
    expect(loss * lossTokens).toBeCloseTo(reference.loss, 3)
    const found = new Map([...await downloaded(ends), ...await downloaded(middle)])
    expect([...found.keys()].sort()).toEqual(Object.keys(reference.gradients).sort())
    for (const [name, gradient] of found) {
      const expected = decodeTensor(reference.gradients[name]!).data as Float32Array
      expect(relativeError(gradient.data as Float32Array, expected), name).toBeLessThan(1e-4)
    }
    const ofGate = (await downloaded(gate)).get(GATE)!.data as Float32Array
    expect(relativeError(ofGate, decodeTensor(reference.gateGradient).data as Float32Array)).toBeLessThan(1e-4)
  })

  it('measures in an evaluation the loss that it learns from, and texts that are withheld as a whole', async () => {
    const at = await trainer(texts(2))
    const { loss, ends, middle, gate } = await at.pass(START)
    device.free(...ends.values(), ...middle.values(), ...gate.values())
    expect(await at.evaluate(at.batches, 1)).toBeCloseTo(loss, 5)
    const all = texts(2).map((example) => ({ ...example, withheld: new Uint8Array(TOKENS).fill(1) }))
    const unsent = new Batches(all, { seed: '', sequences: 2, mode: 'padded', keepsUnsent: true })
    expect(unsent.at(START).batch.ids).toEqual([])
    const alone = await trainer(unmarked(texts(2)), { isAlone: true })
    const plain = new Batches(unmarked(all), { seed: '', sequences: 2, mode: 'padded' })
    expect(await at.evaluate(unsent)).toBeCloseTo(await alone.evaluate(plain), 5)
  })

  it('learns its text', async () => {
    const at = await trainer(texts(2))
    const before = await at.evaluate(at.batches)
    for (let round = 0; round < 12; round++) await at.step(1e-2, 1)
    expect(await at.evaluate(at.batches)).toBeLessThan(before - 0.5)
    const gate = (await at.gate.values()).get(GATE)!.data as Float32Array
    expect(gate.every((value) => value !== 0.5)).toBe(true)
  })
})

const squares = ({ data }: Tensor): number => Array.from(data as Float32Array).reduce((sum, value) => sum + value * value, 0)

function moved ({ shape, data }: Tensor, along: Tensor, step: number): Tensor {
  return float32(shape, (along.data as Float32Array).map((value, i) => (data[i] as number) + step * value))
}
