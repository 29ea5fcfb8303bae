import { join } from 'node:path'
import { expect, it } from 'vitest'
import { readSnapshot } from '../../../../src/model/checkpoint/snapshot.ts'
import { MAX_STANDBY_TENSORS, Standby } from '../../../../src/roles/server/training/standby.ts'
import { float32, int32 } from '../../../../src/tensor.ts'
import { temporaryDirectory } from '../../../node/fixture.ts'

const meta = (changes: object = {}): string =>
  JSON.stringify({ federation: 'ab', round: 3, members: [], counted: {}, unaveragedTokens: {}, ...changes })

async function standby (path = 'standby.safetensors') {
  const warnings: string[] = []
  const full = join(await temporaryDirectory(), path)
  const logger = { debug: () => {}, info: () => {}, warn: (_: object, text?: string) => { warnings.push(text ?? '') }, error: () => {} }
  return { path: full, warnings, kept: new Standby({ path: full, federation: 'ab', maxBytes: 64, logger }) }
}

it('a copy that came in parts is written whole, and the next one takes its place', async () => {
  const { path, kept } = await standby()
  kept.add(meta(), ['a'], [float32([2], [1, 2])])
  kept.add('', ['a.t'], [int32([1], [4])])
  await kept.write(3)
  expect(await readSnapshot(path)).toMatchObject({ meta: { round: 3 } })
  kept.add(meta({ round: 4 }), ['a'], [float32([2], [3, 4])])
  await kept.write(4)
  const newest = await readSnapshot(path)
  expect([...newest!.tensors.keys()]).toEqual(['a'])
  expect(newest!.meta['round']).toBe(4)
})

it.each([
  ['a tensor twice', meta(), ['a', 'a'], [float32([1], [1]), float32([1], [1])], 3],
  ['more bytes than a state has', meta(), ['a'], [float32([17], new Float32Array(17))], 3],
  ['names without tensors', meta(), ['a'], [], 3],
  ['what is not finite', meta(), ['a'], [float32([1], [NaN])], 3],
  ['what is not JSON', '{', [], [], 3],
  ['another federation\'s', meta({ federation: 'cd' }), [], [], 3],
  ['another round\'s', meta(), [], [], 4]
] as const)('a copy with %s is refused', async (_, text, names, tensors, round) => {
  const { path, kept } = await standby()
  await expect((async () => {
    kept.add(text, names, tensors)
    await kept.write(round)
  })()).rejects.toMatchObject({ code: 'E_BAD_MESSAGE' })
  expect(await readSnapshot(path)).toBeUndefined()
  expect(MAX_STANDBY_TENSORS).toBeGreaterThan(1000)
})

it('a disk that takes nothing is said in the log, and is no failure of the stream', async () => {
  const { kept, warnings } = await standby(join('missing', 'standby.safetensors'))
  kept.add(meta(), [], [])
  await kept.write(3)
  expect(warnings).toEqual(['a copy of the state of training cannot be kept'])
})
