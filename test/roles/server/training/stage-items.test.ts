import { describe, expect, it } from 'vitest'
import { MAX_ADAPTER_PART_BYTES } from '../../../../src/protocols/stage/constants.ts'
import { partsWithin } from '../../../../src/roles/server/training/stage-items.ts'
import { float32 } from '../../../../src/tensor.ts'

describe('the parts in which adapters are sent', () => {
  const sized = (floats: number) => ({ floats, value: float32([floats], new Float32Array(floats)) })
  const cut = (...sizes: number[]): number[][] =>
    partsWithin(sizes.map(sized), MAX_ADAPTER_PART_BYTES).map((part) => part.map(({ floats }) => floats))
  const most = MAX_ADAPTER_PART_BYTES / 4

  it('are full to the last byte, and none has more', () => {
    expect(cut(most / 2, most / 2, 1, most, most - 1, 1)).toEqual([[most / 2, most / 2], [1], [most], [most - 1, 1]])
  })

  it('have a tensor alone that is larger than a part', () => {
    expect(cut(1, most + 1, 1)).toEqual([[1], [most + 1], [1]])
  })

  it('are one where there is nothing', () => {
    expect(cut()).toEqual([[]])
  })
})
