import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { CachedSpan } from '../../../src/model/generation/cached-span.ts'
import { ModelWeights } from '../../../src/model/layers/weights.ts'
import { Boundary } from '../../../src/model/privacy/boundary.ts'
import type { Device, DeviceTensor } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'
import { TrainableSpan, type Pace } from '../../../src/model/training/trainable-span.ts'
import { DeviceTurns } from '../../../src/roles/server/device-turns.ts'
import { GenerationEngine } from '../../../src/roles/server/generation/engine.ts'
import { MAX_TRAINING_ROWS, MAX_TRAINING_ROWS_BESIDE_GENERATION } from '../../../src/roles/server/runtime.ts'
import { float32, type Tensor } from '../../../src/tensor.ts'
import { baseWeights, loraWeights, readModelGolden, relativeError } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const MAX_ROWS = 48
const LENGTHS = Array.from({ length: 24 }, (_, i) => 5 + i % 16)
const ROWS = LENGTHS.reduce((sum, length) => sum + length, 0)

async function trainable (pace?: Pace) {
  const golden = readModelGolden('llama/gqa')
  const model = modelOf(golden.config)
  const adapters = { ...golden.lora, dropout: 0, rslora: false, seed: '' }
  const weights = new ModelWeights(device, model, adapters)
  const span = await TrainableSpan.load(device, model, memorySource(baseWeights(golden)), { first: 0, end: model.layers }, adapters, {
    weights, ...(pace === undefined ? {} : { pace })
  })
  await weights.setTrained(loraWeights(golden))
  return { model, weights, span }
}

/** Rows that differ from each other. */
const numbered = (rows: number, hidden: number): Tensor =>
  float32([rows, hidden], Float32Array.from({ length: rows * hidden }, (_, i) => Math.sin(i * i % 1009)))

/** A step's hidden states and gradients. */
async function pass (span: TrainableSpan): Promise<Map<string, Float32Array>> {
  const { hiddenSize } = span.model
  const { hidden, residuals } = await span.forward({ hidden: numbered(ROWS, hiddenSize), lengths: LENGTHS }, { keepResiduals: true })
  const { gradient, adapters } = await span.backward(residuals!, numbered(ROWS, hiddenSize))
  const results = new Map<string, DeviceTensor>([['hidden', hidden], ['gradient', gradient], ...adapters])
  const values = new Map<string, Float32Array>()
  for (const [name, tensor] of results) values.set(name, (await device.download(tensor)).data as Float32Array)
  device.free(...results.values())
  return values
}

describe('training beside generation', () => {
  it('is cut into runs, of which a token waits for one at most, and computes what it does whole', async () => {
    const whole = await trainable()
    const expected = await pass(whole.span)
    whole.span.free()

    const turns = new DeviceTurns()
    let started = 0
    const { model, weights, span } = await trainable({
      maxRows: () => MAX_ROWS,
      turn: async (run) => await turns.training(async () => {
        started++
        return await run()
      })
    })
    const boundary = new Boundary(device, { hidden: model.hiddenSize, rounding: 'fp32' })
    const engine = new GenerationEngine({ device, model, blocks: new CachedSpan(weights), boundary, cacheBytes: 2 ** 24, turns })
    const sequences = await Promise.all([0, 1].map(async (i) => await engine.open(`${i}`, `client ${i}`, span.span, 32)))
    let over = false
    let tokens = 0
    const decoding = sequences.map(async (sequence) => {
      while (!over) {
        if (sequence.length === sequence.capacity) sequence.rewind(0)
        const before = started
        await sequence.forward({ tensors: [numbered(1, model.hiddenSize)], context: undefined })
        expect(started - before).toBeLessThanOrEqual(1)
        tokens++
      }
    })
    const results = await pass(span)
    over = true
    await Promise.all(decoding)
    // Forward and backward, block by block, of the rows in groups.
    expect(started).toBeGreaterThanOrEqual(2 * model.layers * Math.ceil(ROWS / MAX_ROWS))
    expect(tokens).toBeGreaterThan(10)
    expect([...results.keys()]).toEqual([...expected.keys()])
    for (const [name, values] of results) expect(relativeError(values, expected.get(name)!), name).toBeLessThan(1e-5)
    await Promise.all(sequences.map(async (sequence) => { await sequence.close() }))
    span.free()
  })

  it('has shorter runs than training alone', () => {
    expect(MAX_TRAINING_ROWS_BESIDE_GENERATION).toBeLessThan(MAX_TRAINING_ROWS)
  })
})
