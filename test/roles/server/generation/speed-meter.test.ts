import { describe, expect, it } from 'vitest'
import { SpeedMeter } from '../../../../src/roles/server/generation/speed-meter.ts'

describe('the measured speed of a server', () => {
  it('is 0 before a run says anything of it', () => {
    const meter = new SpeedMeter(4)
    meter.add({ tokens: 5, blocks: 4, ms: 10 })
    expect([meter.decodeTokensPerSecond, meter.prefillTokensPerSecond]).toEqual([0, 0])
  })

  it('is told apart for one token at a time and for many', () => {
    const meter = new SpeedMeter(4)
    meter.add({ tokens: 1, blocks: 4, ms: 10 })
    meter.add({ tokens: 100, blocks: 4, ms: 50 })
    expect([meter.decodeTokensPerSecond, meter.prefillTokensPerSecond]).toEqual([100, 2000])
  })

  it('is told for all blocks, also where clients use a part of them', () => {
    const meter = new SpeedMeter(4)
    meter.add({ tokens: 1, blocks: 1, ms: 10 })
    expect(meter.decodeTokensPerSecond).toBe(25)
  })

  it('does not follow single runs, and follows a change', () => {
    const meter = new SpeedMeter(1)
    for (let run = 0; run < 20; run++) meter.add({ tokens: 1, blocks: 1, ms: run % 5 === 0 ? 1000 : 10 })
    expect(meter.decodeTokensPerSecond).toBe(100)
    for (let run = 0; run < 20; run++) meter.add({ tokens: 1, blocks: 1, ms: 20 })
    expect(meter.decodeTokensPerSecond).toBe(50)
  })
})
