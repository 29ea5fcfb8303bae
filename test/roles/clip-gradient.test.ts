import { writeFile } from 'node:fs/promises'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { Releases } from '../../src/roles/client/training/releases.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { startFederation } from './helpers.ts'

const MODEL = 'stories260K-hf'
const ROUNDS = 30

describe.skipIf(!hasData(MODEL))('training under noise', { timeout: 240_000 }, () => {
  afterEach(() => { vi.restoreAllMocks() })

  /** Returns the mean loss of the last rounds of a run. */
  async function finalLoss (): Promise<number> {
    const federation = await startFederation({
      model: dataPath(MODEL),
      charter: {
        clip: 10,
        noise: 0.8,
        loraTargets: ['q', 'k', 'v', 'o', 'gate', 'up', 'down'],
        learningRate: 1e-2
      },
      clients: [{ inputBlocks: 1, outputBlocks: 1, keepStream: false }],
      identities: 'clip-gradient'
    })
    try {
      await writeFile(
        federation.path('notes.txt'),
        Array.from({ length: 60 }, (_, i) => `Lily saw ${i} birds and they sang to her.`).join('\n\n')
      )
      const client = federation.clients[0]!
      const rounds = await client.train({ data: federation.path('notes.txt'), maxTokens: 64, sequences: 8, rounds: ROUNDS })
      return rounds.slice(-10).reduce((sum, { loss }) => sum + loss / 10, 0)
    } finally {
      await federation.stop()
    }
  }

  it('learns more by the gradient of the clip than by one that passes the clip straight through', async () => {
    const through = await finalLoss()
    vi.spyOn(Releases.prototype, 'clips').mockReturnValue(false)
    const straight = await finalLoss()
    expect(through).toBeLessThan(straight)
  })
})
