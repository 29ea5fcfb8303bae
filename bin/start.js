// Runs the sources in a clone, and what was built from them in a package, which has no sources.
import { existsSync } from 'node:fs'

const inClone = existsSync(new URL('../src/cli/main.ts', import.meta.url))
const [directory, extension] = inClone ? ['src', 'ts'] : ['dist', 'js']

const { restartWithAllocatorSettings } = await import(`../${directory}/node/process/allocator.${extension}`)
restartWithAllocatorSettings()
await import(`../${directory}/cli/main.${extension}`)
