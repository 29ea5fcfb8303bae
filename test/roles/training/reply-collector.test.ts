import { describe, expect, it } from 'vitest'
import { ReplyCollector } from '../../../src/roles/training/reply-collector.ts'
import { WaitingTime } from '../../../src/roles/training/waiting-time.ts'
import { FakeClock } from './fake-clock.ts'

const DEADLINE_MS = 1000

function collect (peers: readonly string[], clock = new FakeClock(), waiting = new WaitingTime(DEADLINE_MS)) {
  return { clock, waiting, collector: new ReplyCollector<number>(peers, waiting, clock) }
}

describe('ReplyCollector', () => {
  it('is done when everyone has replied, with the replies ordered by peer, and leaves no timer', async () => {
    const { collector, clock } = collect(['b', 'a'])
    collector.add('b', 2)
    collector.add('a', 1)
    expect([...await collector.done]).toEqual([['a', 1], ['b', 2]])
    expect(clock.pending).toBe(0)
  })

  it('is done at the deadline with what there is', async () => {
    const { collector, clock } = collect(['a', 'b'])
    collector.add('a', 1)
    clock.advance(DEADLINE_MS)
    expect([...await collector.done]).toEqual([['a', 1]])
  })

  it('declines a second reply, a reply from a stranger and one after the deadline', async () => {
    const { collector, clock } = collect(['a', 'b'])
    expect(collector.add('a', 1)).toBe(true)
    expect(collector.add('a', 9)).toBe(false)
    expect(collector.add('c', 9)).toBe(false)
    clock.advance(DEADLINE_MS)
    expect(collector.add('b', 9)).toBe(false)
    expect([...await collector.done]).toEqual([['a', 1]])
  })

  it('stops waiting for a peer that is dropped', async () => {
    const { collector } = collect(['a', 'b'])
    collector.add('a', 1)
    collector.drop('b')
    expect([...await collector.done]).toEqual([['a', 1]])
  })

  it('is done at once when nobody is expected', async () => {
    const { collector, clock } = collect([])
    expect((await collector.done).size).toBe(0)
    expect(clock.pending).toBe(0)
  })

  it('waits for each peer only as long as earlier collectors have left of its time', async () => {
    const { collector: first, clock, waiting } = collect(['a', 'b'])
    first.add('a', 1)
    clock.advance(700)
    first.add('b', 1)
    const { collector } = collect(['a', 'b'], clock, waiting)
    clock.advance(299)
    expect(collector.missing).toEqual(['a', 'b'])
    clock.advance(1)
    expect(collector.missing).toEqual(['a'])
    clock.advance(700)
    expect((await collector.done).size).toBe(0)
  })

  it('gives the whole deadline back after a restart, to all but its cause', () => {
    const { collector, clock, waiting } = collect(['a', 'b'])
    clock.advance(400)
    collector.close()
    waiting.restart(new Set(['b']))
    expect([waiting.left('a'), waiting.left('b')]).toEqual([1000, 600])
  })
})
