import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Boundary } from '../../src/model/privacy/boundary.ts'
import { RemoteStage } from '../../src/roles/middle/remote-stage.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { temporaryDirectory } from '../node/fixture.ts'
import { startFederation, type TestClient, type TestFederation } from './helpers.ts'

let federation: TestFederation
let client: TestClient
let data: string

beforeEach(async () => {
  const root = await temporaryDirectory()
  await writeTinyModel(join(root, 'model'))
  data = join(root, 'data.jsonl')
  await writeTinyData(data, 1)
  federation = await startFederation({ model: join(root, 'model'), clients: [{}], charter: { loraTargets: ['q', 'v'], loraR: 2 } })
  client = federation.clients[0]!
})

afterEach(async () => {
  vi.restoreAllMocks()
  await federation.stop()
})

/** Does something before the second batch of an evaluation is sent. */
function beforeSecond (act: () => Promise<void>): void {
  const original = Object.getOwnPropertyDescriptor(RemoteStage.prototype, 'evaluate')!.value as RemoteStage['evaluate']
  let calls = 0
  vi.spyOn(RemoteStage.prototype, 'evaluate').mockImplementation(async function (this: RemoteStage, ...given) {
    if (++calls === 2) await act()
    return await original.apply(this, given)
  })
}

describe('an evaluation', { timeout: 60_000 }, () => {
  it('outlives a restart of its server, and releases no hidden state anew', async () => {
    const protect = vi.spyOn(Boundary.prototype, 'protect')
    const whole = await client.evaluate({ data, sequences: 1, limit: 4 })
    const releases = protect.mock.calls.length
    beforeSecond(async () => {
      await federation.server.stop()
      await federation.server.start()
    })
    const waits: unknown[] = []
    let result: unknown
    for await (const event of client.peer.events('evaluate', { data, sequences: 1, limit: 4 })) {
      if ((event as { type: string }).type === 'waiting') waits.push(event)
      result = event
    }
    expect(result).toMatchObject({ loss: whole.loss, tokens: whole.tokens })
    expect(waits.length).toBeGreaterThan(0)
    expect(protect).toHaveBeenCalledTimes(2 * releases)
  })

  it('gives up when its server stays away for its timeout', async () => {
    beforeSecond(async () => { await federation.server.stop() })
    await expect(client.evaluate({ data, sequences: 1, limit: 4, timeoutMs: 1_500 })).rejects.toMatchObject({
      code: expect.stringMatching(/^E_(SERVER_TIMEOUT|NO_SERVER|CHANNEL_TIMEOUT|UNREACHABLE)$/) as string
    })
    await federation.server.start()
  })

  it('ends at once where another try would fail as well', async () => {
    await writeFile(data, 'nonsense\n')
    await expect(client.evaluate({ data })).rejects.toMatchObject({ code: 'E_DATASET' })
  })
})
