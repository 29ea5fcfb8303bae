import { describe, expect, it } from 'vitest'
import { allowedPartitions, checkClientSettings, checkProtocols } from '../../../src/protocols/charter/index.ts'
import { charterOf } from './fixture.ts'

const settings = { partition: { inputBlocks: 1, outputBlocks: 2 }, noise: 0.5, gradientNoise: 0.25, wire: 'fp16' } as const

describe('a client\'s settings', () => {
  it('may be what the charter asks for, or more noise', async () => {
    checkClientSettings(await charterOf(1), settings)
    checkClientSettings(await charterOf(1), { ...settings, noise: 3, gradientNoise: 2 })
  })

  it.each([
    ['noise', { noise: 0.4 }],
    ['noise', { noise: NaN }],
    ['gradientNoise', { gradientNoise: 0 }],
    ['wire', { wire: 'fp32' }],
    ['inputBlocks', { partition: { inputBlocks: 3, outputBlocks: 1 } }],
    ['outputBlocks', { partition: { inputBlocks: 1, outputBlocks: 0 } }],
    ['inputBlocks', { partition: { inputBlocks: 1.5, outputBlocks: 1 } }]
  ] as const)('are refused with %s named', async (field, changes) => {
    const charter = await charterOf(1)
    expect(() => {
      checkClientSettings(charter, { ...settings, ...changes })
    }).toThrow(expect.objectContaining({ code: 'E_SETTING_REFUSED', field }))
  })

  it('cannot add noise where there is no clip to scale it by', async () => {
    const charter = await charterOf(1, { privacy: { noise: 0, gradientNoise: 0, clipAlways: false, clip: null } })
    expect(() => { checkClientSettings(charter, settings) }).toThrow(expect.objectContaining({ field: 'noise' }))
  })
})

describe('protocol versions', () => {
  it('agree when their major versions do', async () => {
    checkProtocols(await charterOf(1), { hello: '1.4.0', train: '1.0.1', more: '9.0.0' })
  })

  it('are refused with the protocol named', async () => {
    const charter = await charterOf(1)
    expect(() => {
      checkProtocols(charter, { hello: '1.0.0', train: '2.0.0' })
    }).toThrow(expect.objectContaining({ code: 'E_CHARTER_VERSION', field: 'protocols.train' }))
    expect(() => {
      checkProtocols(charter, { hello: '1.0.0' })
    }).toThrow(expect.objectContaining({ field: 'protocols.train' }))
  })
})

describe('allowed partitions', () => {
  it('are all combinations of the two ranges', async () => {
    expect(allowedPartitions(await charterOf(1))).toHaveLength(4)
  })
})
