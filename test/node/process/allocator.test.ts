import { execFileSync } from 'node:child_process'
import { expect, it } from 'vitest'
import { withAllocatorSettings } from '../../../src/node/process/allocator.ts'

const program = `
  const { restartWithAllocatorSettings } = await import(${
    JSON.stringify(new URL('../../../src/node/process/allocator.ts', import.meta.url).href)
  })
  console.log('started')
  restartWithAllocatorSettings()
  console.log(process.env.GLIBC_TUNABLES)
`

function run (environment: NodeJS.ProcessEnv): string[] {
  return execFileSync(process.execPath, ['--input-type=module', '--eval', program], { env: environment, encoding: 'utf8' }).trim().split(
    '\n'
  )
}

it.runIf(process.platform === 'linux')('restarts a process once, with the settings', () => {
  const { GLIBC_TUNABLES: _, ...environment } = process.env
  expect(run(environment)).toEqual(['started', 'started', withAllocatorSettings({}).GLIBC_TUNABLES])
})

it('leaves settings of the user alone', () => {
  expect(run({ ...process.env, GLIBC_TUNABLES: 'glibc.malloc.arena_max=4' })).toEqual(['started', 'glibc.malloc.arena_max=4'])
})
