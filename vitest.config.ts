import { globSync, readFileSync, statfsSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'
import { withAllocatorSettings } from './src/node/process/allocator.ts'
import { V8_FLAGS } from './src/node/process/v8-flags.ts'

// Tests start hundreds of processes and threads, each of which would erase the types of the same sources and compile them: with what the
// first of them compiled, the others start in half the time. Node reads this when a process starts, so that `env` below would be too late.
process.env.NODE_COMPILE_CACHE ??= fileURLToPath(new URL('node_modules/.cache/node', import.meta.url))

/** What computes and parses, and leaves nothing behind in its process: files share one, and what it has imported. */
const units = [
  'test/*.test.ts',
  'test/api/**/*.test.ts',
  'test/protocols/**/*.test.ts',
  'test/model/{checkpoint,families,generation,graph,layers,privacy,training}/**/*.test.ts'
]

/**
 * Files that mock a module: Vite's own runner loads what they import, and each has a process of its own, where nobody has imported the
 * module before.
 */
const mocks = globSync('test/**/*.test.ts').filter((path) => readFileSync(path, 'utf8').includes('vi.mock('))

/** Node.js loads everything else, as it does outside of tests: sources whose types can be erased need no transformation. */
const native = { viteModuleRunner: false, nodeLoader: false }

/** More than all the temporary files of the tests that run at the same time. */
const TEMPORARY_BYTES = 4 * 2 ** 30

/**
 * Returns the directory for temporary files: in memory where there is room. Homes are flushed to the disk with each round of training, and
 * no test is about what a power cut leaves.
 */
function temporary (): string {
  if (process.env.TMPDIR !== undefined || process.platform !== 'linux') return tmpdir()
  try {
    const { bavail, bsize } = statfsSync('/dev/shm')
    return bavail * bsize >= TEMPORARY_BYTES ? '/dev/shm' : tmpdir()
  } catch {
    return tmpdir() // there is no such file system
  }
}

export default defineConfig({
  test: {
    projects: [
      { extends: true, test: { name: 'units', include: units, exclude: mocks, isolate: false, experimental: native } },
      { extends: true, test: { name: 'mocks', include: mocks } },
      // Native sessions, sockets and V8 flags belong to a process; tests of one file share it, files do not. The settings are those of
      // daemons, which keep more memory: hostile.test.ts, which bounds it without them, is among the files above.
      {
        extends: true,
        test: {
          name: 'processes',
          include: ['test/**/*.test.ts'],
          exclude: [...units, ...mocks],
          experimental: native,
          execArgv: [...V8_FLAGS],
          env: withAllocatorSettings({})
        }
      }
    ],
    pool: 'forks',
    env: {
      // For the tests that use onnxruntime without a device of ours, which sets it itself.
      ORT_DISABLE_TELEMETRY: '1',
      TMPDIR: temporary()
    },
    // Each file may hold several onnxruntime threads and child processes of its own.
    maxWorkers: Math.min(2, availableParallelism()),
    // A unit test takes milliseconds; the first import of a native module on a busy machine takes seconds.
    // Tests that start daemons or train set their own limit beside them.
    testTimeout: 20_000,
    hookTimeout: 60_000
  }
})
