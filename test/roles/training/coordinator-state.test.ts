import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CoordinatorState } from '../../../src/roles/training/coordinator-state.ts'
import { float32 } from '../../../src/tensor.ts'

describe('CoordinatorState', () => {
  let root: string
  beforeAll(async () => { root = await mkdtemp(join(tmpdir(), 'midspan-state-')) })
  afterAll(async () => { await rm(root, { recursive: true, force: true }) })

  it.each([NaN, Infinity, -Infinity])('keeps the last step where the next one would hold %d', async (value) => {
    const path = join(root, `${value}.safetensors`)
    const state = await CoordinatorState.open(path, 'federation')
    const step = { lastTurn: 'a', counted: ['a'], members: [], unaveragedTokens: {} }
    await state.commit({ ...step, round: 1, tensors: new Map([['w', float32([2], [1, 2])]]) })
    await expect(state.commit({ ...step, round: 2, tensors: new Map([['w', float32([2], [1, value])]]) }))
      .rejects.toMatchObject({ code: 'E_STATE' })
    for (const kept of [state, await CoordinatorState.open(path, 'federation')]) {
      expect(kept.round).toBe(1)
      expect([...kept.tensors.get('w')!.data as Float32Array]).toEqual([1, 2])
    }
  })
})
