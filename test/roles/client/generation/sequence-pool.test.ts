import { describe, expect, it } from 'vitest'
import { ReleasedText } from '../../../../src/roles/client/generation/released-text.ts'
import { MAX_IDLE_SEQUENCES, MAX_RELEASED_BYTES, SequencePool, type KeptSequence } from '../../../../src/roles/client/generation/sequence-pool.ts'
import { float32 } from '../../../../src/tensor.ts'

class FakeSequence implements KeptSequence {
  readonly released = new ReleasedText()
  closed = 0

  constructor (...ids: number[]) {
    this.released.put(0, ids, { tensors: [float32([ids.length, 1], new Float32Array(ids.length))], context: undefined })
  }

  async close (): Promise<void> {
    this.closed++
    await Promise.resolve()
  }
}

const KEY = 'round 0'
const signal = new AbortController().signal
const nothing = (): void => {}
const wanted = (prompt: readonly number[], allows = true) => ({ prompt, key: KEY, allows: () => allows })

/** A pool in which these sequences are kept, in this order. */
async function poolOf (sequences: readonly FakeSequence[], maxOpen = 3): Promise<SequencePool<FakeSequence>> {
  const pool = new SequencePool<FakeSequence>({ maxOpen })
  for (const sequence of sequences) {
    await pool.take({ ...wanted([]), allows: () => false }, nothing, signal)
    await pool.giveBack(sequence, { keeps: true, key: KEY })
  }
  return pool
}

describe('a pool of sequences', () => {
  it('finds the one that begins as the prompt does for the longest', async () => {
    const [a, b] = [new FakeSequence(1, 2, 3), new FakeSequence(1, 2, 4, 5)]
    const pool = await poolOf([a, b])
    expect(await pool.take(wanted([1, 2, 4, 5, 6]), nothing, signal)).toEqual({ sequence: b, released: undefined })
    expect(await pool.take(wanted([9]), nothing, signal)).toEqual({ sequence: undefined, released: undefined })
    expect(pool.idle).toBe(1)
  })

  it('goes on with a sequence that may, and gives what another released where that is more', async () => {
    const [a, b] = [new FakeSequence(1, 2, 3, 4, 5), new FakeSequence(1, 2)]
    const pool = await poolOf([a, b])
    const found = await pool.take({ ...wanted([1, 2, 3, 9]), allows: (sequence) => sequence === b }, nothing, signal)
    expect(found).toEqual({ sequence: b, released: a.released })
  })

  it('gives a sequence to one text at a time, and what it released to others', async () => {
    const a = new FakeSequence(1, 2, 3)
    const pool = await poolOf([a])
    await pool.take(wanted([1, 2, 3]), nothing, signal)
    expect((await pool.take(wanted([1, 2, 3]), nothing, signal)).sequence).toBeUndefined()
    const b = new FakeSequence(1, 2, 3)
    const other = await poolOf([b])
    expect(await other.take(wanted([1, 2, 7], false), nothing, signal)).toEqual({ sequence: undefined, released: b.released })
    expect(other.idle).toBe(1)
  })

  it('keeps what a sequence forgets', async () => {
    const a = new FakeSequence(1, 2, 3, 4)
    const pool = await poolOf([a])
    await pool.take(wanted([1, 2, 3, 9]), nothing, signal)
    a.released.truncate(3)
    const { released } = await pool.take(wanted([1, 2, 3, 4]), nothing, signal)
    expect(released?.ids).toEqual([1, 2, 3, 4])
  })

  it('keeps MAX_IDLE_SEQUENCES open, the last ones, and the states of the others', async () => {
    const sequences = Array.from({ length: MAX_IDLE_SEQUENCES + 2 }, (_, i) => new FakeSequence(i + 1, 0))
    const pool = await poolOf(sequences)
    expect(pool.idle).toBe(MAX_IDLE_SEQUENCES)
    expect(sequences.map(({ closed }) => closed)).toEqual([1, 1, ...Array.from({ length: MAX_IDLE_SEQUENCES }, () => 0)])
    expect((await pool.take(wanted([1, 0, 5]), nothing, signal)).released).toBe(sequences[0]!.released)
    await pool.clear()
    expect(sequences.map(({ closed }) => closed)).toEqual(sequences.map(() => 1))
  })

  it('keeps released states of MAX_RELEASED_BYTES at most', async () => {
    const huge = (id: number): FakeSequence => {
      const sequence = new FakeSequence(id)
      const states = { tensors: [float32([1, MAX_RELEASED_BYTES / 8], new Float32Array(MAX_RELEASED_BYTES / 8))], context: undefined }
      sequence.released.put(0, [id], states)
      return sequence
    }
    const pool = new SequencePool<FakeSequence>({ maxOpen: 1 })
    for (const id of [1, 2, 3]) {
      await pool.take(wanted([]), nothing, signal)
      await pool.giveBack(huge(id), { keeps: false, key: KEY })
    }
    const found = async (id: number): Promise<boolean> => {
      const { released } = await pool.take(wanted([id]), nothing, signal)
      await pool.giveBack(undefined, { keeps: false, key: KEY })
      return released !== undefined
    }
    expect([await found(1), await found(2), await found(3)]).toEqual([false, true, true])
  })

  it('forgets all where the states depend on something else', async () => {
    const a = new FakeSequence(1, 2, 3)
    const pool = await poolOf([a])
    expect(await pool.take({ ...wanted([1, 2, 3]), key: 'round 1' }, nothing, signal)).toEqual({ sequence: undefined, released: undefined })
    expect(a.closed).toBe(1)
    const late = new FakeSequence(1, 2, 3)
    await pool.giveBack(late, { keeps: true, key: KEY })
    expect(late.closed).toBe(1)
    expect((await pool.take({ ...wanted([1, 2, 3]), key: 'round 1' }, nothing, signal)).released).toBeUndefined()
  })

  it('lets texts wait for a place, the first that came first, and says so', async () => {
    const pool = new SequencePool<FakeSequence>({ maxOpen: 1 })
    await pool.take(wanted([]), nothing, signal)
    const order: string[] = []
    const waiting = ['a', 'b'].map(async (name) => {
      await pool.take(wanted([]), () => { order.push(`${name} waits`) }, signal)
      order.push(`${name} has it`)
    })
    await pool.giveBack(undefined, { keeps: false, key: KEY })
    await waiting[0]
    expect(order).toEqual(['a waits', 'b waits', 'a has it'])
    await pool.giveBack(undefined, { keeps: false, key: KEY })
    await waiting[1]
  })

  it('gives the place of a text that is given up to the next one', async () => {
    const pool = new SequencePool<FakeSequence>({ maxOpen: 1 })
    await pool.take(wanted([]), nothing, signal)
    const given = new AbortController()
    const first = pool.take(wanted([]), nothing, given.signal)
    const second = pool.take(wanted([]), nothing, signal)
    given.abort(new Error('given up'))
    await expect(first).rejects.toThrow('given up')
    await pool.giveBack(undefined, { keeps: false, key: KEY })
    await second
  })

  it('closes what it keeps where all places are wanted', async () => {
    const kept = [new FakeSequence(1), new FakeSequence(2)]
    const pool = await poolOf(kept, 2)
    await pool.take(wanted([7]), nothing, signal)
    expect(kept.map(({ closed }) => closed)).toEqual([1, 0])
    await pool.take(wanted([8]), nothing, signal)
    expect(kept.map(({ closed }) => closed)).toEqual([1, 1])
  })
})
