import { describe, expect, it } from 'vitest'
import { openDevice } from '../../src/model/runtime/worker-device.ts'
import { deviceSuite } from './suite.ts'
import { webGpuDriver } from './webgpu-driver.ts'

const driver = webGpuDriver()

if (driver === undefined) {
  describe.skip('the webgpu device: there is no Vulkan driver; install that of the GPU, or chromium-common and libvulkan1 for SwiftShader', () => {
    it('passes the suite', () => {})
  })
} else {
  describe(`with the driver ${driver.name}`, () => {
    it('is one in a process', async () => {
      const device = await openDevice('webgpu')
      await expect(openDevice('webgpu')).rejects.toThrow('this process has a webgpu device already')
      await device.close()
    })

    deviceSuite('webgpu', { block: 5e-6, hidden: 2e-5, gradient: 5e-5, steps: 1e-3 }, {
      block: 2e-3,
      hidden: 3e-3,
      gradient: 5e-3,
      steps: 1e-2
    })
  })
}
