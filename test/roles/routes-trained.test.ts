import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { WorkerAdapters } from '../../src/roles/server/training/worker-adapters.ts'
import { original } from '../helpers/original.ts'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import type { TestPeer } from './helpers.ts'
import { startWorkers, type WorkersFederation } from './workers.ts'

const PROMPT = { ids: [1, 5, 9], maxTokens: 40 }

describe('a worker of a federation that was trained', { timeout: 120_000 }, () => {
  let root: string
  let federation: WorkersFederation
  let untrained: number[]
  let trained: number[]
  const generate = async (): Promise<number[]> => (await federation.clients[0]!.generate(PROMPT)).ids

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
  afterEach(() => { vi.restoreAllMocks() })
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

  it('does not generate until it has heard from the coordinator what was trained', async () => {
    const [worker] = federation.workers as [TestPeer]
    await federation.server.stop()
    await worker.stop()
    await worker.start()
    const reached = original(WorkerAdapters, 'reached')
    const asked = Promise.withResolvers<void>()
    vi.spyOn(WorkerAdapters.prototype, 'reached').mockImplementation(async function (this: WorkerAdapters, ...given) {
      asked.resolve()
      await reached.apply(this, given)
    })
    const waiting = generate()
    // It would answer from here on, with what training began with.
    await asked.promise
    await federation.server.start()
    expect(await waiting).toEqual(trained)
  })
})
