import { defineConfig } from 'vitest/config'

// Not among the tests of every change: it needs other languages and their libraries, which Midspan itself never does.
export default defineConfig({
  test: {
    include: ['test/foreign/*.check.ts'],
    reporters: ['verbose'],
    pool: 'forks',
    env: { ORT_DISABLE_TELEMETRY: '1' },
    hookTimeout: 600_000
  }
})
