import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import type { Device } from '../../src/model/runtime/device.ts'
import { ClientRound } from '../../src/roles/client/training/client-round.ts'
import { LocalStage } from '../../src/roles/middle/local-stage.ts'
import { blockOf } from '../../src/roles/training/aggregation/strategy.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { devices } from './devices.ts'
import { adapterTensors, startFederation } from './helpers.ts'

vi.mock('../../src/model/runtime/worker-device.ts', async (load) => await (await import('./devices.ts')).noting(load))

const PASSES = 4
const ROUNDS = 2

/** Notes what the device with this index holds whenever this method is called. */
function watch<Name extends string> (
  prototype: Record<Name, (...parameters: never[]) => Promise<unknown>>,
  name: Name,
  index: number
): number[] {
  const held: number[] = []
  const original = prototype[name]
  prototype[name] = async function (this: unknown, ...parameters) {
    held.push((await (devices[index] as Device).memory()).heldBytes)
    return await original.apply(this, parameters)
  }
  onTestFinished(() => { prototype[name] = original })
  return held
}

describe('gradients of several passes', { timeout: 60_000 }, () => {
  it('hold the memory of one gradient between passes, on the server and on the client', async () => {
    const root = await temporaryDirectory()
    await writeTinyModel(join(root, 'model'))
    await writeTinyData(join(root, 'data.jsonl'), 1)
    const federation = await startFederation({ model: join(root, 'model'), clients: [{}], charter: { accumulate: PASSES } })
    onTestFinished(async () => { await federation.stop() })
    const client = federation.clients[0]!
    const held = { server: watch(LocalStage.prototype, 'forward', 0), client: watch(ClientRound.prototype, 'forward', 1) }
    await client.train({ data: join(root, 'data.jsonl'), rounds: ROUNDS, sequences: 2, packing: 'padded' })

    const adapters = [...adapterTensors(await client.export(federation.path('adapter')))]
    const { blocks } = federation.founded.model
    const isMiddle = (name: string): boolean => blockOf(name) >= 1 && blockOf(name) < blocks - 1
    const bytesOf = (isCounted: (name: string) => boolean): number =>
      adapters.filter(([name]) => isCounted(name)).reduce((sum, [, { data }]) => sum + data.byteLength, 0)
    for (const [bytes, gradientBytes] of [[held.server, bytesOf(isMiddle)], [held.client, bytesOf((name) => !isMiddle(name))]] as const) {
      const last = bytes.slice(-PASSES)
      expect(bytes).toHaveLength(PASSES * ROUNDS)
      expect(last.map((at) => at - last[0]!)).toEqual([0, ...Array<number>(PASSES - 1).fill(gradientBytes)])
    }
  })
})
