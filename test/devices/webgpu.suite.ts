import { describe, it } from 'vitest'
import { deviceSuite } from './suite.ts'
import { webGpuDriver } from './webgpu-driver.ts'

const driver = webGpuDriver()

if (driver === undefined) {
  describe.skip('the webgpu device: there is no Vulkan driver; install that of the GPU, or chromium-common and libvulkan1 for SwiftShader', () => { it('passes the suite', () => {}) })
} else {
  describe(`with the driver ${driver.name}`, () => {
    deviceSuite('webgpu', { block: 5e-6, hidden: 2e-5, gradient: 5e-5, steps: 1e-3 })
  })
}
