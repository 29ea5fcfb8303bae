import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

// Tests start hundreds of processes and threads, each of which would erase the types of the same sources and compile them: with what the
// first of them compiled, the others start in half the time. Node reads this when a process starts, so that `env` below would be too late.
process.env.NODE_COMPILE_CACHE ??= fileURLToPath(new URL('node_modules/.cache/node', import.meta.url))

/**
 * What computes and parses, and leaves nothing behind in its process: files share one, and what it has imported. A file that mocks a module
 * cannot be among them: others have imported the module before it.
 */
const units = [
  'test/*.test.ts',
  'test/api/**/*.test.ts',
  'test/protocols/**/!(session.golden).test.ts',
  'test/model/{checkpoint,families,generation,graph,layers,privacy,training}/**/*.test.ts'
]

export default defineConfig({
  test: {
    projects: [
      { extends: true, test: { name: 'units', include: units, isolate: false } },
      // Native sessions, sockets and V8 flags belong to a process; tests of one file share it, files do not.
      { extends: true, test: { name: 'processes', include: ['test/**/*.test.ts'], exclude: units } }
    ],
    pool: 'forks',
    // For the tests that use onnxruntime without a device of ours, which sets it itself.
    env: { ORT_DISABLE_TELEMETRY: '1' },
    // Each file may hold several onnxruntime threads and child processes of its own.
    maxWorkers: Math.min(2, availableParallelism()),
    // A unit test takes milliseconds; the first import of a native module on a busy machine takes seconds.
    // Tests that start daemons or train set their own limit beside them.
    testTimeout: 20_000,
    hookTimeout: 60_000
  }
})
