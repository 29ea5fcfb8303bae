import { expect, it } from 'vitest'
import { measureCurves } from '../../bench/support/curve.ts'
import { dataPath, hasData } from '../helpers/data.ts'

it.skipIf(!hasData('stories260K-hf') || !hasData('tinyshakespeare'))('a federation learns tiny Shakespeare as well as one machine', {
  timeout: 180_000
}, async () => {
  const rounds = 24
  const { centralised, federated: [federated] } = await measureCurves(
    {
      model: dataPath('stories260K-hf'),
      text: dataPath('tinyshakespeare', 'input.txt'),
      rounds,
      every: rounds,
      sequences: 4,
      heldOutSequences: 32
    },
    [0]
  )
  const [before, after] = federated!.points
  expect(before!.evaluated).toBeGreaterThan(4.7)
  expect(before!.evaluated).toBeLessThan(5.1)
  expect(after!.evaluated).toBeLessThan(3.6)
  expect(Math.abs(after!.evaluated - centralised[1]!.evaluated)).toBeLessThan(1e-3)
  expect(Math.abs(after!.adapter - after!.evaluated)).toBeLessThan(1e-4)
})
