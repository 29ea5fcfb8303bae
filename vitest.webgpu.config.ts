import { defineConfig } from 'vitest/config'
import { webGpuDriver } from './test/devices/webgpu-driver.ts'

// Not among the tests of every change: on SwiftShader it takes minutes.
export default defineConfig({
  test: {
    include: ['test/devices/webgpu.suite.ts'],
    reporters: ['verbose'],
    pool: 'forks',
    env: { ...webGpuDriver()?.env },
    testTimeout: 600_000,
    hookTimeout: 60_000
  }
})
