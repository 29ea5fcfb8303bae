import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { Boundary } from '../../../src/model/privacy/boundary.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { TrainableSpan } from '../../../src/model/training/trainable-span.ts'
import { LocalStage } from '../../../src/roles/middle/local-stage.ts'
import type { BatchItem } from '../../../src/roles/middle/stage.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { baseWeights, formulaWeight, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

const golden = readModelGolden('llama/gqa')
const model = modelOf(golden.config)
const SEED = 'round/3'

function rows (name: string, count: number): Tensor[] {
  return [float32([count, model.hiddenSize], formulaWeight(name, 'rows', [count, model.hiddenSize]).data as Float32Array)]
}

/** Clients in the order of their ids, of different partitions and lengths. */
const items: readonly BatchItem[] = [
  { id: 'a', first: 0, end: 3, lengths: [4, 2], tensors: rows('a', 6) },
  { id: 'b', first: 1, end: 3, lengths: [5], tensors: rows('b', 5) },
  { id: 'c', first: 0, end: 2, lengths: [3, 3], tensors: rows('c', 6) }
]
const answers = new Map(items.map(({ id, tensors }) => [id, { tensors: rows(`gradient of ${id}`, tensors[0]!.shape[0]!) }]))

describe('a middle whose adapters drop out', () => {
  let device: Device
  let middle: LocalStage

  beforeAll(async () => {
    device = await openDevice('cpu', { threads: 1 })
    const span = await TrainableSpan.load(device, model, memorySource(baseWeights(golden)), { first: 0, end: model.layers }, {
      ...golden.lora,
      dropout: 0.5,
      rslora: false,
      seed: '00'
    })
    await span.weights.setTrained(loraWeights(golden))
    middle = new LocalStage({ device, span, boundary: new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' }) })
  })
  afterAll(async () => { await device.close() })

  /** Rows after the middle, gradient rows and adapter gradients of a pass of these clients, of whom those in `answering` come back. */
  async function pass (
    ids: readonly string[],
    answering = ids
  ): Promise<Record<'hidden' | 'gradients' | 'adapters', Map<string, ArrayLike<number>>>> {
    const forward = await middle.forward(items.filter(({ id }) => ids.includes(id)), { dropoutSeed: SEED })
    const gradients = await forward.backward(new Map([...answers].filter(([id]) => answering.includes(id))))
    const adapters = new Map<string, ArrayLike<number>>()
    for (const [name, gradient] of forward.adapterGradients) adapters.set(name, (await device.download(gradient)).data as Float32Array)
    forward.free()
    const data = (all: ReadonlyMap<string, readonly Tensor[]>): Map<string, ArrayLike<number>> =>
      new Map([...all].map(([id, [tensor]]) => [id, tensor!.data as Float32Array]))
    return { hidden: data(forward.hidden), gradients: data(gradients), adapters }
  }

  it('does to a client\'s rows what it does to them alone, whoever else is in the batch', async () => {
    const all = await pass(['a', 'b', 'c'])
    for (const id of ['a', 'b', 'c']) {
      const alone = await pass([id])
      for (const kind of ['hidden', 'gradients'] as const)
        expect(relativeError(all[kind].get(id)!, alone[kind].get(id)!), `${kind} of ${id}`).toBeLessThan(1e-5)
    }
  })

  it('has the adapter gradients of those who come back, as if the others had never come', async () => {
    const [left, without] = [await pass(['a', 'b', 'c'], ['b', 'c']), await pass(['b', 'c'])]
    for (const [name, gradient] of without.adapters) expect(relativeError(left.adapters.get(name)!, gradient), name).toBeLessThan(1e-5)
  })

  it('drops out other elements for other clients with the same rows', async () => {
    const twin = { ...items[0]!, id: 'z' }
    const pass = await middle.forward([items[0]!, twin], { dropoutSeed: SEED })
    const [a, z] = ['a', 'z'].map((id) => pass.hidden.get(id)![0]!.data as Float32Array)
    pass.free()
    expect(relativeError(z!, a!)).toBeGreaterThan(1e-2)
  })
})
