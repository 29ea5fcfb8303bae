import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { MAX_MAP_HIDDEN, type MiddleMap } from '../../../../src/model/generation/speculation/middle-map.ts'
import { SeededRandom } from '../../../../src/model/random.ts'
import type { Device } from '../../../../src/model/runtime/device.ts'
import { openDevice } from '../../../../src/model/runtime/worker-device.ts'
import { LearntMap } from '../../../../src/roles/client/generation/learnt-map.ts'

const HIDDEN = 2
const KEY = 'federation and partition'

let device: Device
let directory: string
const warnings: string[] = []
beforeAll(async () => {
  device = await openDevice('cpu', { threads: 1 })
  directory = await mkdtemp(join(tmpdir(), 'midspan-map-'))
})
afterAll(async () => {
  await device.close()
  await rm(directory, { recursive: true, force: true })
})

const mapAt = (name: string, changes: { key?: string, hidden?: number } = {}): LearntMap =>
  new LearntMap({
    device,
    hidden: HIDDEN,
    path: join(directory, name),
    key: KEY,
    logger: { debug () {}, info () {}, warn: (_, message) => { warnings.push(message) }, error () {} },
    ...changes
  })

const told = (map: MiddleMap | undefined) => [map?.isReady, map?.pairs]

/** Lets a map learn until it is fitted, and closes it. */
async function learn (learnt: LearntMap, round: number): Promise<number> {
  const map = (await learnt.at(round))!
  const random = new SeededRandom('states')
  const states = Float32Array.from({ length: 2_100 * HIDDEN }, () => random.nextFloat() + 0.1)
  map.observe(0, states, states, undefined)
  await map.settled()
  expect(map.isReady).toBe(true)
  const { pairs } = map
  await learnt.close()
  return pairs
}

it('a map is there after a restart, for the same adapters and the same cut alone', async () => {
  const pairs = await learn(mapAt('kept'), 3)
  const again = mapAt('kept')
  expect(told(await again.at(3))).toEqual([true, pairs])
  expect(await again.at(3)).toBe(await again.at(3))
  expect(told(await again.at(4))).toEqual([false, 0])
  await again.close()
  const other = mapAt('kept', { key: 'another cut' })
  expect(told(await other.at(3))).toEqual([false, 0])
  await other.close()
})

it('a map that is damaged is learnt anew, and the log says so', async () => {
  await learn(mapAt('damaged'), 0)
  const path = join(directory, 'damaged')
  const bytes = await readFile(path)
  bytes[bytes.length - 1]! ^= 1
  await writeFile(path, bytes)
  const again = mapAt('damaged')
  expect(told(await again.at(0))).toEqual([false, 0])
  await again.close()
  expect(warnings).toEqual(['the map of the middle that is kept cannot be read, and is learnt anew'])
})

it('there is no map of states wider than MAX_MAP_HIDDEN', async () => {
  const wide = mapAt('wide', { hidden: MAX_MAP_HIDDEN + 1 })
  expect(await wide.at(0)).toBeUndefined()
  await wide.close()
})
