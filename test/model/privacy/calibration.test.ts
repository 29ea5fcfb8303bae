import { afterAll, beforeAll, expect, it } from 'vitest'
import { modelOf } from '../../../src/model/families/index.ts'
import { calibrateClips } from '../../../src/model/privacy/calibration.ts'
import type { Device } from '../../../src/model/runtime/device.ts'
import { openDevice } from '../../../src/model/runtime/open.ts'
import { readChatGLMGolden } from '../../helpers/chatglm.ts'
import { baseWeights, readModelGolden } from '../../helpers/golden.ts'
import { memorySource } from '../../helpers/source.ts'

let device: Device
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
})
afterAll(async () => {
  await device.close()
})

it.each([['llama/plain', readModelGolden('llama/plain')], ['chatglm/150528', readChatGLMGolden('150528')]])(
  'measures the rows of %s at each cut, and leaves nothing on the device',
  async (_, golden) => {
    const model = modelOf(golden.config)
    const before = await device.memory()
    const { hidden, gradient } = await calibrateClips(device, model, memorySource(baseWeights(golden)), {
      hidden: [0, 1],
      gradient: [1, model.layers]
    }, AbortSignal.timeout(10_000))
    expect(Object.keys(hidden)).toEqual(['0', '1'])
    expect(Object.keys(gradient)).toEqual(['1', String(model.layers)])
    for (const norm of [...Object.values(hidden), ...Object.values(gradient)]) expect(norm).toBeGreaterThan(0)
    expect((await device.memory()).heldBytes).toBe(before.heldBytes)
  }
)
