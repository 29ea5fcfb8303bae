import { describe, expect, it } from 'vitest'
import type { ModelWeights } from '../../../../src/model/layers/weights.ts'
import { WorkerAdapters } from '../../../../src/roles/server/training/worker-adapters.ts'
import { float32 } from '../../../../src/tensor.ts'

const name = '1.self_attn.q_proj.lora_A'
const values = new Map([[name, float32([1, 2], [1, 2])]])
// Of the weights a copy of adapters needs one method.
const weights = { assignTrained: async () => {} } as unknown as ModelWeights

describe('the adapters of a worker', () => {
  it('have reached a round when the adapters of this round or a later one came, and not before any came', async () => {
    const adapters = new WorkerAdapters(weights, [{ name, shape: [1, 2] }])
    const reached: number[] = []
    const waiting = [0, 3, 5].map(async (round) => {
      await adapters.reached(round, AbortSignal.timeout(10_000))
      reached.push(round)
    })
    await Promise.resolve()
    expect(reached).toEqual([])
    await adapters.take(4, values)
    await Promise.all(waiting.slice(0, 2))
    expect(reached).toEqual([0, 3])
    await adapters.take(5, values)
    await Promise.all(waiting)
  })

  it('are not waited for beyond the end of who waits, nor where the blocks have none', async () => {
    const gone = new AbortController()
    const waiting = new WorkerAdapters(weights, [{ name, shape: [1, 2] }]).reached(0, gone.signal)
    gone.abort(new Error('gone'))
    await expect(waiting).rejects.toThrow('gone')
    await new WorkerAdapters(weights, []).reached(7, AbortSignal.timeout(10_000))
  })
})
