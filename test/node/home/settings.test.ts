import { writeFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { homeAt } from '../../../src/node/home/home.ts'
import { loadSettings, readConfig, updateConfig } from '../../../src/node/home/settings.ts'
import { temporaryDirectory } from '../fixture.ts'

describe('settings', () => {
  it('come from what was given, then the home, then the defaults', async () => {
    const home = homeAt(await temporaryDirectory())
    await updateConfig(home, { role: 'client', device: 'webgpu', threads: 2 })
    expect(await loadSettings(home, { threads: 4, listen: undefined })).toMatchObject({
      role: 'client',
      device: 'webgpu',
      threads: 4,
      logLevel: 'info',
      moveAfterMs: 60_000,
      maxConnections: 300
    })
  })

  it('lose a key that is set to undefined', async () => {
    const home = homeAt(await temporaryDirectory())
    await updateConfig(home, { role: 'client', threads: 2 })
    await updateConfig(home, { threads: undefined })
    expect(await readConfig(home.config)).toEqual({ role: 'client' })
  })

  it('are refused where weights in blocks of codes are to be computed in int8, wherever each comes from', async () => {
    const home = homeAt(await temporaryDirectory())
    await updateConfig(home, { role: 'client', weights: 'int4' })
    await expect(loadSettings(home, { compute: 'int8' })).rejects.toThrow('weights in int4 are not computed in int8')
    expect(await loadSettings(home, { compute: 'int8', weights: 'fp16' })).toMatchObject({ compute: 'int8', weights: 'fp16' })
    expect(await loadSettings(home, { compute: 'fp16' })).toMatchObject({ compute: 'fp16', weights: 'int4' })
  })

  it.each([
    ['noize: 1', /config\.yaml: noize is not a setting/],
    ['threads: many', /config\.yaml: threads: /],
    ['weights: int3', /config\.yaml: weights: /],
    ['blocks: 5-3', /config\.yaml: blocks: is not a span such as 4-12/],
    ['blocks: auto', /config\.yaml: blocks: is not a span/],
    ['listen: [everywhere]', /config\.yaml: listen\.0: is not a multiaddr/],
    ['a: [', /config\.yaml is not YAML/],
    ['- 1', /config\.yaml: the settings/]
  ])('are refused where the home\'s file says %s', async (text, message) => {
    const home = homeAt(await temporaryDirectory())
    await writeFile(home.config, text)
    await expect(loadSettings(home)).rejects.toThrow(message)
  })
})
