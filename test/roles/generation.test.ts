import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { dataPath, hasData } from '../helpers/data.ts'
import { bareCharter, barePartitions, mixedPartitions, startFederation, type TestFederation } from './helpers.ts'

const MODEL = 'stories260K-hf'
const BOS = 1

describe.skipIf(!hasData(MODEL))('generation by clients of one server', { timeout: 120_000 }, () => {
  let federation: TestFederation
  let sample: number[]
  beforeAll(async () => {
    sample = JSON.parse(readFileSync(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[]
    federation = await startFederation({ model: dataPath(MODEL), clients: mixedPartitions })
  }, 120_000)
  afterAll(async () => { await federation.stop() })

  it('gives the published sample whatever the partition, also when all generate at once', async () => {
    const maxTokens = sample.length - 1
    const results = await Promise.all(federation.clients.map(async (client) => await client.generate({ ids: [BOS], maxTokens })))
    for (const { ids } of results) expect([BOS, ...ids]).toEqual(sample)
  })

  it('gives it with the embedding or the head alone', async () => {
    const bare = await startFederation({ model: dataPath(MODEL), charter: bareCharter, clients: barePartitions })
    onTestFinished(async () => { await bare.stop() })
    const results = await Promise.all(bare.clients.map(async (client) => await client.generate({ ids: [BOS], maxTokens: 40 })))
    for (const { ids } of results) expect([BOS, ...ids]).toEqual(sample.slice(0, 41))
  })

  it('gives each client its own sequence when prompts of different lengths share runs', async () => {
    const cuts = [1, 17, 64]
    const results = await Promise.all(
      federation.clients.map(async (client, index) => await client.generate({ ids: sample.slice(0, cuts[index]), maxTokens: 60 }))
    )
    for (const [index, { ids }] of results.entries()) expect(ids).toEqual(sample.slice(cuts[index], (cuts[index] ?? 0) + 60))
  })

  it('gives several sequences of one client at once', async () => {
    const [client] = federation.clients
    const results = await Promise.all([5, 40].map(async (cut) => await client!.generate({ ids: sample.slice(0, cut), maxTokens: 30 })))
    expect(results.map(({ ids }) => ids)).toEqual([sample.slice(5, 35), sample.slice(40, 70)])
  })

  it('repeats a sampled text by its seed', async () => {
    const [first, second] = federation.clients
    const sampling = { ids: [BOS], maxTokens: 40, temperature: 0.8, topK: 40, seed: 7 }
    const [a, b] = [await first!.generate(sampling), await second!.generate(sampling)]
    expect(a.ids).toEqual(b.ids)
    expect(a.ids).not.toEqual(sample.slice(1, 41))
  })
})
