import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { writeTinyData, writeTinyModel } from '../helpers/tiny-model.ts'
import { startFederation } from './helpers.ts'

it.each([
  ['keeps its weights in int8', { weights: 'int8' }, 'int8 weights'],
  ['computes products in int8', { compute: 'int8' }, 'int8 products']
] as const)('a server that %s says so, trains and generates', { timeout: 60_000 }, async (_, choice, said) => {
  const root = await mkdtemp(join(tmpdir(), 'midspan-weights-'))
  onTestFinished(async () => { await rm(root, { recursive: true, force: true }) })
  await writeTinyModel(join(root, 'model'))
  const data = join(root, 'data.jsonl')
  await writeTinyData(data, 1)
  const federation = await startFederation({ model: join(root, 'model'), charter: { ...choice, learningRate: 0.02 }, clients: [{}] })
  onTestFinished(async () => { await federation.stop() })
  expect(federation.server.daemon.status().device).toBe(`cpu (1 threads, ${said})`)
  const [client] = federation.clients
  expect(client!.peer.daemon.status().device).toBe('cpu (1 threads)')
  const rounds = await client!.train({ data, rounds: 12 })
  expect(rounds.at(-1)!.loss).toBeLessThan(rounds[0]!.loss * 0.95)
  expect((await client!.generate({ ids: [1, 7, 9], maxTokens: 5 })).ids.length).toBeLessThanOrEqual(5)
})
