import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DeviceTurns, type DeviceUser } from '../../../src/roles/server/device-turns.ts'

/** A device on which runs take time that a test sets, and which tells in what order they ran. */
class FakeDevice {
  nowMs = 0
  readonly turns = new DeviceTurns(() => this.nowMs)
  readonly ran: Array<{ readonly user: DeviceUser, readonly ms: number }> = []

  async run (user: DeviceUser, ms: number): Promise<void> {
    await Promise.resolve()
    this.ran.push({ user, ms })
    this.nowMs += ms
  }

  /** Trains until it is told to stop, run after run, as a pass does. */
  async train (runMs: readonly number[], isOver: () => boolean): Promise<void> {
    for (let run = 0; !isOver(); run++)
      await this.turns.training(async () => { await this.run('training', runMs[run % runMs.length]!) })
  }

  /** Generates so many runs, as an engine does whose requests are always there. */
  async generate (runMs: readonly number[]): Promise<void> {
    for (const [i, ms] of runMs.entries())
      await this.turns.generation(async () => { await this.run('generation', ms) }, () => i < runMs.length - 1)
  }
}

const time = (ran: FakeDevice['ran'], of: DeviceUser): number => ran.reduce((sum, { user, ms }) => sum + (user === of ? ms : 0), 0)

describe('DeviceTurns', () => {
  it('lets a run of generation wait for one run of training at most', async () => {
    const anyMs = fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 5 })
    const anyRuns = fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 60 })
    await fc.assert(fc.asyncProperty(anyMs, anyRuns, async (training, runs) => {
      const device = new FakeDevice()
      let over = false
      const trained = device.train(training, () => over)
      await device.generate(runs)
      over = true
      await trained
      const order = device.ran.map(({ user }) => user)
      const between = order.slice(0, order.lastIndexOf('generation')).join(' ').split('generation')
      for (const runsBetween of between.slice(1)) expect(runsBetween.split('training').length - 1).toBeLessThanOrEqual(1)
    }))
  })

  it('leaves training a quarter of the time while generation never stops', async () => {
    const device = new FakeDevice()
    let over = false
    const trained = device.train([40], () => over)
    await device.generate(Array<number>(400).fill(12))
    over = true
    await trained
    const share = time(device.ran, 'training') / (time(device.ran, 'training') + time(device.ran, 'generation'))
    expect(share).toBeGreaterThan(0.24)
    expect(share).toBeLessThan(0.27)
  })

  it('has training go on at once where nothing is generated, and when generation has no more runs after all', async () => {
    const device = new FakeDevice()
    await device.turns.generation(async () => { await device.run('generation', 5) }, () => true)
    const training = device.turns.training(async () => { await device.run('training', 5) })
    await Promise.resolve()
    expect(device.ran.map(({ user }) => user)).toEqual(['generation'])
    device.turns.rest()
    await training
    expect(device.ran.map(({ user }) => user)).toEqual(['generation', 'training'])
  })

  it('goes on after a run that failed', async () => {
    const device = new FakeDevice()
    await expect(device.turns.training(async () => { throw new Error('no memory') })).rejects.toThrow('no memory')
    await device.turns.generation(async () => { await device.run('generation', 1) })
    expect(device.ran).toHaveLength(1)
  })
})
