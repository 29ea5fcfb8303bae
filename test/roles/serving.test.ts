import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { SeededRandom } from '../../src/model/random.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { startFederation, type TestClient, type TestFederation } from './helpers.ts'

/** Positions of each text, its prompt included. */
const CAPACITY = 640
/** Keys and values of three blocks with one head of 8. */
const SEQUENCE_BYTES = 3 * 2 * 8 * CAPACITY * 4

const random = new SeededRandom('serving')
const text = (tokens: number): { readonly ids: readonly number[], readonly maxTokens: number } =>
  ({ ids: Array.from({ length: CAPACITY - tokens }, () => 3 + random.below(29)), maxTokens: tokens })

describe('texts that share a server with too little cache', { timeout: 60_000 }, () => {
  let root: string
  let federation: TestFederation
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-serving-'))
    const path = join(root, 'model')
    await writeTinyModel(path, { max_position_embeddings: CAPACITY })
    federation = await startFederation({
      model: path,
      clients: [{ inputBlocks: 1, outputBlocks: 1 }, { inputBlocks: 2, outputBlocks: 1 }],
      charter: { cacheBytes: 2 * SEQUENCE_BYTES }
    })
  }, 60_000)
  afterAll(async () => {
    await federation.stop()
    await rm(root, { recursive: true, force: true })
  })

  /** Resolves with the ids of a text; `begun` is called with its first tokens. */
  async function idsOf (client: TestClient, parameters: object, begun: () => void = () => {}): Promise<readonly number[]> {
    let ids: readonly number[] = []
    for await (const event of client.peer.events('generate', parameters)) {
      if ('ids' in event) ({ ids } = event as { ids: readonly number[] })
      begun()
    }
    return ids
  }

  it('are those that each is alone: in runs with others, cut into chunks, evicted and sent again', async () => {
    const [greedy, modest] = federation.clients as [TestClient, TestClient]
    const [long, longer, other] = [text(100), text(130), text(20)]
    const [one, two] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    // Both hold all of the cache when the other client comes, who is within its share.
    const together = [
      idsOf(greedy, long, one.resolve),
      idsOf(greedy, { ...longer, batch: true }, two.resolve),
      Promise.all([one.promise, two.promise]).then(async () => await idsOf(modest, other))
    ]
    const results = await Promise.all(together)
    const status = federation.server.daemon.status().generation!
    expect(status.evictions).toBeGreaterThan(0)
    expect(status.serving.runSequences.max).toBeGreaterThan(1)
    expect(status.serving.clients.map(({ peer }) => peer).sort()).toEqual([greedy.peerId, modest.peerId].sort())
    expect(results).toEqual([await idsOf(greedy, long), await idsOf(greedy, longer), await idsOf(modest, other)])
  })
})
