import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { relativeError } from '../helpers/golden.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { logitsWith } from './exported.ts'
import { startFederation, type TestFederation } from './helpers.ts'

const IDS = [[1, 5, 9, 12, 3, 20], [1, 7, 7, 30]]

describe('a merged model of a federation', { timeout: 60_000 }, () => {
  let root: string
  let model: string
  let federation: TestFederation

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-merged-'))
    model = join(root, 'model')
    await writeTinyModel(model)
    await writeTinyData(join(root, 'data.jsonl'), 1)
    federation = await startFederation({ model, charter: { learningRate: 3e-2, loraRslora: true }, clients: [{}] })
    await federation.clients[0]!.train({ data: join(root, 'data.jsonl'), rounds: 4, sequences: 4, maxTokens: 32 })
  }, 60_000)
  afterAll(async () => {
    await federation.stop()
    await rm(root, { recursive: true, force: true })
  })

  it('computes what the base computes with the adapter, from the server and from a client that names the base', async () => {
    const [client] = federation.clients
    const adapter = await client!.export(join(root, 'adapter'))
    await federation.server.ask('export', { out: join(root, 'by-server'), merged: true })
    await client!.peer.ask('export', { out: join(root, 'by-client'), merged: true, model })
    const expected = await logitsWith(model, adapter, IDS)
    const untrained = { ...adapter, tensors: new Map() }
    for (const merged of ['by-server', 'by-client']) {
      const { data } = await logitsWith(join(root, merged), untrained, IDS)
      expect(relativeError(data as Float32Array, expected.data as Float32Array)).toBeLessThan(1e-5)
    }
    const { data } = await logitsWith(model, untrained, IDS)
    expect(relativeError(data as Float32Array, expected.data as Float32Array)).toBeGreaterThan(1e-2)
  })

  it('is refused on a client that names no base, or another', async () => {
    const ask = async (parameters: object): Promise<unknown> =>
      await federation.clients[0]!.peer.ask('export', { out: join(root, 'no'), merged: true, ...parameters })
    await expect(ask({})).rejects.toMatchObject({ code: 'E_EXPORT' })
    await expect(ask({ model: join(root, 'by-server') })).rejects.toThrow('is not the model that was trained')
  })

  it('is not what a server with personal ends has', async () => {
    const personal = await startFederation({ model, charter: { ends: { mode: 'personal' } }, clients: [] })
    try {
      await expect(personal.server.ask('export', { out: join(root, 'no') })).rejects.toMatchObject({ code: 'E_EXPORT' })
    } finally {
      await personal.stop()
    }
  })
})
