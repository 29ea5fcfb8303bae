import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { startWorkers, type WorkersFederation } from './workers.ts'

const PROMPT = { ids: [1, 5, 9], maxTokens: 40 }

describe('a worker of a federation that was trained', { timeout: 120_000 }, () => {
  let root: string
  let federation: WorkersFederation
  let untrained: number[]
  let trained: number[]
  const generate = async (more: object = {}): Promise<number[]> => (await federation.clients[0]!.generate({ ...PROMPT, ...more })).ids

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-routes-'))
    const model = join(root, 'model')
    await writeTinyModel(model)
    await writeTinyData(join(root, 'data.jsonl'), 1)
    federation = await startWorkers(
      { model, charter: { learningRate: 3e-2, loraTargets: ['q', 'v', 'down'] }, clients: [{ inputBlocks: 2, outputBlocks: 1 }] },
      { founder: { first: 1, end: 2 }, workers: [{ first: 2, end: 4 }] }
    )
    untrained = await generate()
    await federation.clients[0]!.train({ data: join(root, 'data.jsonl'), rounds: 8, sequences: 4, packing: 'padded' })
    trained = await generate()
  }, 120_000)
  afterAll(async () => {
    await federation.stop()
    await rm(root, { recursive: true, force: true })
  })

  it('generates with what was trained, also when it has just started', async () => {
    expect(trained).not.toEqual(untrained)
    await federation.workers[0]!.stop()
    const waiting = generate()
    await federation.workers[0]!.start()
    expect(await waiting).toEqual(trained)
  })

  it('refuses to generate until it has heard from the coordinator what was trained', async () => {
    await federation.server.stop()
    await federation.workers[0]!.stop()
    await federation.workers[0]!.start()
    await expect(generate({ timeoutMs: 6_000 })).rejects.toMatchObject({ code: 'E_SERVER_TIMEOUT' })
    const waiting = generate()
    await federation.server.start()
    expect(await waiting).toEqual(trained)
  })
})
