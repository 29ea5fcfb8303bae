import fc from 'fast-check'
import { expect, it } from 'vitest'
import { ReleasedText } from '../../../../src/roles/client/generation/released-text.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'

/** The states of tokens [ids, 2], of which one can tell the tokens, and how often they were released before. */
const statesOf = (ids: readonly number[], draw: number): Tensor[] =>
  [float32([ids.length, 2], Float32Array.from(ids.flatMap((id) => [id, draw])))]

const steps = fc.array(fc.oneof(
  fc.record({ add: fc.array(fc.nat(3), { minLength: 1, maxLength: 5 }) }),
  fc.record({ back: fc.nat(12) })
), { minLength: 1, maxLength: 12 })

it('a released text holds what was put last at each position, in any rows that are asked for', () => {
  fc.assert(fc.property(steps, fc.nat(30), fc.nat(30), (all, a, b) => {
    const text = new ReleasedText()
    let model: Array<readonly [id: number, draw: number]> = []
    for (const [draw, step] of all.entries()) {
      if ('back' in step) {
        model = model.slice(0, step.back)
        text.truncate(step.back)
      } else {
        text.put(model.length, step.add, { tensors: statesOf(step.add, draw), context: undefined })
        model.push(...step.add.map((id) => [id, draw] as const))
      }
      expect(text.ids).toEqual(model.map(([id]) => id))
    }
    const [from, end] = [Math.min(a, b), Math.min(Math.max(a, b), model.length)]
    if (from < end) expect([...text.rows(from, end)[0]!.data as Float32Array]).toEqual(model.slice(from, end).flat())
    expect(text.states.reduce((sum, { tensors }) => sum + tensors[0]!.shape[0]!, 0)).toBe(model.length)
  }))
})

it('a released text says how much of it a prompt begins with', () => {
  const text = new ReleasedText()
  text.put(0, [1, 2, 3], { tensors: statesOf([1, 2, 3], 0), context: undefined })
  expect([[1, 2, 3, 4], [1, 2], [1, 9, 3], [], [1, 2, 3]].map((prompt) => text.commonLength(prompt))).toEqual([3, 2, 1, 0, 3])
})
