import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../../src/model/families/index.ts'
import type { Protection } from '../../../../src/model/privacy/boundary.ts'
import { parseList, type WithholdRule } from '../../../../src/model/privacy/withholding.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { Batches } from '../../../../src/model/text/batches.ts'
import type { ReleasedText } from '../../../../src/roles/client/generation/released-text.ts'
import { Sequence } from '../../../../src/roles/client/generation/sequence.ts'
import { sentCapacity, WithheldSequence } from '../../../../src/roles/client/generation/withheld-sequence.ts'
import { WithheldText } from '../../../../src/roles/client/generation/withheld-text.ts'
import { ownHidden } from '../../../../src/roles/client/training/own-pass.ts'
import { bytesOf, float32, type Tensor } from '../../../../src/tensor.ts'
import { baseWeights, readModelGolden, relativeError } from '../../../helpers/golden.ts'
import { memorySource } from '../../../helpers/source.ts'
import { SplitTrainer } from '../training/split-trainer.ts'

const golden = readModelGolden('llama/gqa')
const model = modelOf(golden.config)
const PLAIN: Protection = { clip: null, noise: 0 }
const CAPITALS: WithholdRule[] = [{ kind: 'capitals' }]
const signal = AbortSignal.timeout(60_000)

/** A tokenizer of which each token is a word: those of even numbers have a capital. */
const words = { wordTexts: async (ids: readonly number[]) => await Promise.resolve(ids.map((id) => ` ${id % 2 === 0 ? 'N' : 'w'}${'abcdefghijklmnopqrstuvwxyz'[id % 26]}`)) }
/** A tokenizer whose tokens are letters, and a space. */
const letters = { wordTexts: async (ids: readonly number[]) => await Promise.resolve(ids.map((id) => ' abcdefghijklmnopqrstuvwxyz'[id % 27]!)) }

describe('a text that grows, with withheld words', () => {
  let device: Device
  let at: SplitTrainer
  let gate: Tensor
  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    at = await SplitTrainer.load(device, {
      model,
      source: memorySource(baseWeights(golden)),
      adapters: { ...golden.lora, dropout: 0, rslora: false, seed: '00' },
      protection: { hidden: PLAIN, gradient: PLAIN, keepsStream: false },
      tokens: 16,
      sequences: 1,
      data: [{ ids: Int32Array.from([3, 4, 5]), lossMask: Uint8Array.from([0, 1, 1]) }]
    })
    gate = float32([model.hiddenSize], Float32Array.from({ length: model.hiddenSize }, (_, i) => 0.3 + i / 100))
  })
  afterAll(async () => { await device.close() })

  const counted: Array<{ readonly rows: number }> = []

  async function open (rules: readonly WithholdRule[], tokenizer = words, protection = PLAIN, capacity = 32): Promise<WithheldSequence> {
    const ledger = { record: async (note: { readonly rows: number }) => { counted.push(await Promise.resolve(note)) } }
    return await WithheldSequence.open(
      { weights: at.client.weights, boundary: at.boundary, route: at.middle, ledger },
      { protection, keepsStream: false, partition: { inputBlocks: 1, outputBlocks: 1 }, capacity, text: 'text' },
      { text: new WithheldText(tokenizer, rules), gate },
      signal
    )
  }

  /** The logits after the last token of a text whose withheld tokens are known, as training and evaluation compute them. */
  async function expected (ids: readonly number[], withheld: readonly boolean[]): Promise<Float32Array> {
    const example = {
      ids: Int32Array.from([...ids, 1]),
      lossMask: Uint8Array.from([...ids, 1], (_, i) => i > 0 ? 1 : 0),
      withheld: Uint8Array.from([...withheld, false], Number)
    }
    const { batch } = new Batches([example], { seed: '', sequences: 1, mode: 'padded', keepsUnsent: true }).at({ epoch: 0, index: 0 })
    const { own } = batch
    const released = batch.ids.length === 0
      ? []
      : await (async () => {
        const { hidden } = await at.client.bottom.forward(batch.ids, { keepResiduals: false })
        const { tensors } = await at.boundary.protect(hidden, PLAIN)
        device.free(hidden)
        return tensors
      })()
    const item = { id: 'a', ...at.middle.span, lengths: batch.lengths, tensors: released }
    const back = released.length === 0 ? [] : await at.middle.evaluate(item)
    const components = { device, model: at.client, boundary: at.boundary, gate }
    const hidden = await ownHidden(components, own!, { released, back })
    const logits = await at.client.top.logits({ hidden, lengths: [ids.length] })
    device.free(hidden)
    return logits.data as Float32Array
  }

  it('computes what training and evaluation compute, however its tokens come', async () => {
    for (const ids of [[3, 4, 5, 7, 8, 10, 11], [4, 6, 3, 5, 8], [2, 4, 6], [5, 4, 4, 4, 7]]) {
      const sequence = await open(CAPITALS)
      const pieces = [ids.slice(0, 2), [ids[2]!], ids.slice(3)].filter(({ length }) => length > 0)
      let length = 0
      for (const piece of pieces) {
        const logits = await sequence.next(piece, { guess: false }, signal)
        length += piece.length
        const seen = ids.slice(0, length)
        expect(relativeError(logits, await expected(seen, seen.map((id) => id % 2 === 0)))).toBeLessThan(1e-4)
      }
      expect(sequence.length).toBe(ids.length)
      expect(sequence.released.ids).toEqual(ids.filter((id) => id % 2 === 1))
      await sequence.close()
    }
  })

  it('sends nothing of a word that may be withheld until it is known not to be, and then all of it', async () => {
    const of = (text: string): number[] => [...text].map((letter) => ' abcdefghijklmnopqrstuvwxyz'.indexOf(letter))
    const list = [parseList('abc', 'list')]
    const sequence = await open(list, letters)
    const text = of('x ab')
    await sequence.next(text, { guess: false }, signal)
    expect(sequence.released.ids).toEqual(of('x '))
    const logits = await sequence.next(of('d'), { guess: false }, signal)
    expect(sequence.released.ids).toEqual(of('x abd'))
    const plain = await Sequence.open(
      { weights: at.client.weights, boundary: at.boundary, route: at.middle, ledger: { record: async () => { await Promise.resolve() } } },
      { protection: PLAIN, keepsStream: false, partition: { inputBlocks: 1, outputBlocks: 1 }, capacity: 32, text: 'text' },
      signal
    )
    // Every token of it is sent by now: it is the text that it would be without rules.
    expect(relativeError(logits, await plain.next(of('x abd'), { guess: false }, signal))).toBeLessThan(1e-4)
    await sequence.next(of(' abc'), { guess: false }, signal)
    await sequence.next(of(' x'), { guess: false }, signal)
    expect(sequence.released.ids).toEqual(of('x abd  x'))
    await sequence.close()
    await plain.close()
  })

  const bytes = ({ states }: ReleasedText): string => Buffer.concat(states.flatMap(({ tensors }) => tensors.map(bytesOf))).toString('base64')

  it('releases the same bytes whatever the withheld words are, and counts what is sent alone', async () => {
    const released: string[] = []
    for (const name of [4, 10]) {
      counted.length = 0
      const sequence = await open(CAPITALS)
      for (const ids of [[3, name, 5], [name], [7], [name, name, 9]]) await sequence.next(ids, { guess: false }, signal)
      released.push(bytes(sequence.released))
      expect(sequence.freshStates).toBe(4)
      expect(counted.reduce((sum, { rows }) => sum + rows, 0)).toBe(4)
      await sequence.close()
    }
    expect(released[0]).toBe(released[1])
  })

  it('asks for room by what is sent, and for more where that was too little', async () => {
    expect(sentCapacity(5, 10, 1000)).toBe(sentCapacity(5, 10, 2000))
    expect(sentCapacity(5, 10, 20)).toBe(20)
    const ids = [3, 4, 5, 7, 8, 9, 11]
    const sequence = await open(CAPITALS, words, PLAIN, 2)
    expect(sequence.capacity).toBe(2)
    let logits: Float32Array | undefined
    for (const id of ids) logits = await sequence.next([id], { guess: false }, signal)
    expect(relativeError(logits!, await expected(ids, ids.map((id) => id % 2 === 0)))).toBeLessThan(1e-4)
    await sequence.close()
  })

  it('releases what was released before as it was, noise included', async () => {
    const noised = { clip: 1, noise: 0.5 }
    const first = await open(CAPITALS, words, noised)
    await first.next([3, 4, 5, 7], { guess: false }, signal)
    const again = await open(CAPITALS, words, noised)
    again.resume([3, 6, 8, 5, 7, 9], first.released)
    await again.next([3, 6, 8, 5, 7, 9], { guess: false }, signal)
    expect(again.freshStates).toBe(1)
    expect(bytes(again.released).startsWith(bytes(first.released).slice(0, -4))).toBe(true)
    await first.close()
    await again.close()
  })
})
