import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { rotaryTables } from '../../../src/model/families/rotary-embedding.ts'
import { RotaryTables } from '../../../src/model/layers/rotary-tables.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/worker-device.ts'

let device: Device
beforeAll(async () => { device = await openDevice('cpu', { threads: 1 }) })
afterAll(async () => { await device.close() })

const MAX_POSITIONS = 131072
const model = modelOf({
  architectures: ['LlamaForCausalLM'],
  vocab_size: 61,
  hidden_size: 32,
  intermediate_size: 56,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  max_position_embeddings: MAX_POSITIONS
})

describe('RotaryTables', () => {
  it('hold the model\'s rotations, as many as its sequences have needed', async () => {
    const tables = new RotaryTables(device, model)
    const short = await tables.reaching(10)
    expect(short.cos.shape).toEqual([2048, 4])
    const long = await tables.reaching(3000)
    expect(long.sin.shape).toEqual([4096, 4])
    expect(await tables.reaching(2000)).toBe(long)
    const expected = rotaryTables(model.rotary, 4096)
    expect(await device.downloadAll([long.cos, long.sin])).toEqual([expected.cos, expected.sin])
    // A run that is still to come may have been given the shorter ones.
    expect((await device.download(short.cos)).data).toEqual((expected.cos.data as Float32Array).subarray(0, 2048 * 4))
    tables.free()
  })

  it('are made once for all who wait for them, and freed together', async () => {
    const before = (await device.memory()).heldBytes
    const tables = new RotaryTables(device, model)
    const [one, other] = await Promise.all([tables.reaching(5000), tables.reaching(4000)])
    expect(one).toBe(other)
    expect((await device.memory()).heldBytes - before).toBe(2 * 5000 * 4 * 4)
    tables.free()
    expect((await device.memory()).heldBytes).toBe(before)
  })

  it('end where the model does', async () => {
    const tables = new RotaryTables(device, model)
    await tables.reaching(MAX_POSITIONS - 1)
    expect((await tables.reaching(MAX_POSITIONS)).cos.shape).toEqual([MAX_POSITIONS, 4])
    await expect(tables.reaching(MAX_POSITIONS + 1)).rejects.toThrow(RangeError)
    tables.free()
  })
})
