import { execFile } from 'node:child_process'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, it, onTestFinished } from 'vitest'

/** Opens a device in this process, computes something on it and closes it. */
const program = `
  const { openDevice } = await import(${JSON.stringify(new URL('../../../src/model/runtime/worker-device.ts', import.meta.url).href)})
  const { addTensors } = await import(${JSON.stringify(new URL('../../../src/model/layers/hidden-states.ts', import.meta.url).href)})
  const device = await openDevice('cpu', { threads: 1 })
  const zeros = await device.zeros('float32', [2])
  console.log((await device.download(await addTensors(device, zeros, zeros))).shape.join())
  await device.close()
`

it('a device lets onnxruntime keep no record of its use, which it would report', async () => {
  const home = await mkdtemp(join(tmpdir(), 'midspan-telemetry-'))
  onTestFinished(async () => { await rm(home, { recursive: true }) })
  const { ORT_DISABLE_TELEMETRY: _, ...environment } = process.env
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', program], {
    env: { ...environment, HOME: home, TMPDIR: home }
  })
  expect(stdout).toBe('2\n')
  expect(await readdir(home)).toEqual([])
})
