import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import * as generate from '../../../../src/protocols/generate/messages.ts'
import { float32, type Tensor } from '../../../../src/tensor.ts'
import { writeTinyModel } from '../../../helpers/tiny-model.ts'
import { Attacker, refusalOf } from '../../attacker.ts'
import { startFederation, type TestFederation } from '../../helpers.ts'

const MIDDLE = { first: 1, end: 4 }
const HIDDEN = 16
const CAPACITY = 16
/** Keys and values of three blocks with one head of 8. */
const SEQUENCE_BYTES = 3 * 2 * 8 * CAPACITY * 4

const rows = (count: number): Tensor => float32([count, HIDDEN], new Float32Array(count * HIDDEN).fill(0.1))

describe('two idle sessions that hold the whole cache', { timeout: 60_000 }, () => {
  let root: string
  let federation: TestFederation
  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-eviction-'))
    const path = join(root, 'model')
    await writeTinyModel(path)
    federation = await startFederation({
      model: path,
      clients: [{ inputBlocks: 1, outputBlocks: 1 }],
      charter: { cacheBytes: 2 * SEQUENCE_BYTES, inputBlocks: { min: 1, max: 1 }, outputBlocks: { min: 1, max: 1 } }
    })
  }, 60_000)
  afterAll(async () => {
    await federation.stop()
    await rm(root, { recursive: true, force: true })
  })

  async function hold (attacker: Attacker): Promise<generate.GenerateClientChannel> {
    const channel = await attacker.generation()
    await channel.send(generate.fromClient({ case: 'begin', value: { ...MIDDLE, capacity: CAPACITY } }))
    await channel.receive(AbortSignal.timeout(30_000))
    await channel.send(generate.fromClient({ case: 'rows', value: { position: 0, count: 2 } }), [rows(2)])
    await channel.receive(AbortSignal.timeout(30_000))
    return channel
  }

  it('give one up for another client, and its owner hears so at its next request', async () => {
    const attacker = await Attacker.join(federation, 'holder')
    const held = [await hold(attacker), await hold(attacker)]
    expect(federation.server.daemon.status().generation).toMatchObject({ sequences: 2, cacheBytes: 2 * SEQUENCE_BYTES })
    const { ids } = await federation.clients[0]!.generate({ ids: [1, 4, 5], maxTokens: CAPACITY - 3 })
    expect(ids).toHaveLength(CAPACITY - 3)
    expect(federation.server.daemon.status().generation).toMatchObject({ evictions: 1 })
    await held[0]!.send(generate.fromClient({ case: 'rows', value: { position: 2, count: 1 } }), [rows(1)])
    expect(await refusalOf(held[0]!)).toBe('E_CACHE_EVICTED')
    await held[1]!.send(generate.fromClient({ case: 'rows', value: { position: 2, count: 1 } }), [rows(1)])
    expect((await held[1]!.receive(AbortSignal.timeout(30_000))).message.kind.case).toBe('hidden')
    for (const channel of held) channel.abort(new Error('enough'))
  })

  it('of two other clients give one up too, once it was idle for a while', async () => {
    const held = [await hold(await Attacker.join(federation, 'first')), await hold(await Attacker.join(federation, 'second'))]
    const { ids } = await federation.clients[0]!.generate({ ids: [1, 4, 5], maxTokens: CAPACITY - 3 })
    expect(ids).toHaveLength(CAPACITY - 3)
    for (const channel of held) channel.abort(new Error('enough'))
  })
})
