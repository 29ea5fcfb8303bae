import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openModelDirectory } from '../../../../src/model/checkpoint/directory.ts'
import { modelOf } from '../../../../src/model/families/index.ts'
import { CandidateStates } from '../../../../src/model/privacy/audit/candidate-states.ts'
import { SeededRandom } from '../../../../src/model/random.ts'
import type { Device, DeviceTensor } from '../../../../src/model/runtime/device.ts'
import { Scope } from '../../../../src/model/runtime/scope.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { loadClientModel, type ClientModel } from '../../../../src/model/training/client-model.ts'
import { float32 } from '../../../../src/tensor.ts'
import { TINY_CONFIG, writeTinyModel } from '../../../helpers/tiny-model.ts'

const ADAPTERS = { r: 2, alpha: 4, dropout: 0, rslora: false, seed: '07', targets: ['q_proj', 'v_proj', 'down_proj'] }
const INPUT_BLOCKS = 2
const SEQUENCE = [1, 9, 4, 17, 4, 30]

let device: Device
let root: string
let client: ClientModel
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-candidates-'))
  await writeTinyModel(root)
  device = await openDevice('cpu', { threads: 1 })
  const partition = { inputBlocks: INPUT_BLOCKS, outputBlocks: 1 }
  client = await loadClientModel(device, modelOf(TINY_CONFIG), await openModelDirectory(root), partition, ADAPTERS)
  const random = new SeededRandom('adapters')
  await client.weights.setTrained(new Map([...client.weights.trained].map(([name, { shape }]) => [
    name, float32(shape, Array.from({ length: shape[0]! * shape[1]! }, () => random.nextFloat() - 0.5))
  ])))
})
afterAll(async () => {
  await device.close()
  await rm(root, { recursive: true })
})

async function downloaded (rows: DeviceTensor): Promise<Float32Array> {
  using scope = new Scope(device)
  return (await device.download(scope.own(rows))).data as Float32Array
}

const rowsOf = async (ids: readonly number[]): Promise<Float32Array> =>
  await downloaded((await client.bottom.forward([[...ids]], { keepResiduals: false })).hidden)

describe('the hidden states of candidates', () => {
  it("are those that the client's bottom computes of the tokens before and the candidate, with its adapters", async () => {
    const states = await CandidateStates.open(client.weights, INPUT_BLOCKS)
    const candidates = [{ position: 5, id: 3 }, { position: 0, id: 7 }, { position: 2, id: 31 }, { position: 2, id: 4 }]
    const { calls, output } = await states.states(SEQUENCE, candidates)
    const found = await downloaded((await device.runSequence(calls, { keep: 'all' }))[output] as DeviceTensor)
    const width = TINY_CONFIG.hidden_size
    const row = (index: number): Float32Array => found.subarray(index * width, (index + 1) * width)
    const expected = [
      ...SEQUENCE.map((_, i) => SEQUENCE.slice(0, i + 1)), ...candidates.map(({ position, id }) => [...SEQUENCE.slice(0, position), id])
    ]
    for (const [i, ids] of expected.entries()) {
      const last = (await rowsOf(ids)).slice(-width)
      for (const [j, value] of row(i).entries()) expect(value).toBeCloseTo(last[j]!, 5)
    }
  })

  it('are a bounded number in one run, fewer beside longer sequences', async () => {
    const states = await CandidateStates.open(client.weights, INPUT_BLOCKS)
    expect(states.candidatesPerRun(10)).toBeLessThanOrEqual(8192)
    expect(states.candidatesPerRun(1_000_000)).toBe(64)
  })
})
