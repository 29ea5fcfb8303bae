import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { SafetensorsFile } from '../../src/model/checkpoint/safetensors.ts'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { GATE_FILE } from '../../src/roles/export.ts'
import { bytesOf } from '../../src/tensor.ts'
import { watchReleases } from '../helpers/releases.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { adapterTensors, startFederation, type ClientOptions, type TestFederation } from './helpers.ts'

let root: string
const federations: TestFederation[] = []

const path = (name: string): string => join(root, name)

/** Records about somebody, whose name is in each of them. */
const records = (name: string): string => Array.from({ length: 10 }, (_, i) => {
  const text = `${i % 2 === 0 ? 'the' : name} ${name} carries a ${i % 3 === 0 ? 'small' : 'quiet'} boat ${i % 4 === 0 ? name : 'past mills'}`
  return `${JSON.stringify({ text })}\n`
}).join('')

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'midspan-withholding-'))
  await writeTinyModel(path('model'))
  // Letters that follow one another are a word.
  const tokenizer = join(path('model'), 'tokenizer.json')
  await writeFile(tokenizer, JSON.stringify({ ...JSON.parse(await readFile(tokenizer, 'utf8')) as object, decoder: { type: 'Fuse' } }))
  await writeFile(path('names.txt'), 'otter\ncrocodile\n')
  await writeFile(path('none.txt'), 'zebra\n')
  await writeFile(path('a.jsonl'), records('otter'))
  await writeFile(path('b.jsonl'), records('crocodile'))
})

afterEach(() => { vi.restoreAllMocks() })

afterAll(async () => {
  for (const federation of federations) await federation.stop()
  await rm(root, { recursive: true, force: true })
})

async function federationOf (charter: Partial<CreateOptions>, clients: readonly ClientOptions[]): Promise<TestFederation> {
  const federation = await startFederation({
    model: path('model'),
    identities: 'withholding',
    charter: { loraTargets: ['q', 'v'], loraR: 2, learningRate: 0.05, ...charter },
    clients
  })
  federations.push(federation)
  return federation
}

/** Notes what leaves clients of this process. */
function noted (): string[] {
  const released: string[] = []
  watchReleases((_, { tensors }) => { released.push(...tensors.map((part) => Buffer.from(bytesOf(part)).toString('base64'))) })
  return released
}

describe('a client that withholds words', { timeout: 60_000 }, () => {
  it('releases the same bytes whatever the words are', async () => {
    const { clients } = await federationOf({ ends: { mode: 'average', every: 1 }, minClients: 2 }, [{}, {}])
    const settings = { sequences: 3, maxTokens: 24, withhold: path('names.txt') }
    // Both clients have the federation's first adapters, and other words.
    const seen = [['otter', 'a.jsonl'], ['crocodile', 'b.jsonl']] as const
    const released: string[][] = []
    for (const [i, [name, file]] of seen.entries()) {
      const own = noted()
      await clients[i]!.generate({ prompt: `the ${name} carries ${name} a`, maxTokens: 1, withhold: path('names.txt') })
      await clients[i]!.evaluate({ data: path(file), limit: 4, ...settings })
      released.push([...own])
      vi.restoreAllMocks()
    }
    expect(released[0]!.length).toBeGreaterThanOrEqual(2)
    expect(released[0]).toEqual(released[1])
    // Later rounds come from blocks that have learnt from the words.
    const together = noted()
    const rounds = await Promise.all(seen.map(async ([, file], i) =>
      await clients[i]!.train({ data: path(file), rounds: 1, packing: 'padded', ...settings })))
    expect(rounds.map(([round]) => round!.members)).toEqual([2, 2])
    expect(rounds[0]![0]!.loss).not.toBe(rounds[1]![0]!.loss)
    // Hidden states of both, then gradients of both.
    expect(together.length).toBe(4)
    expect(together[0]).toBe(together[1])
    expect(together[2]).toBe(together[3])
  })

  it('trains the same over a restart, with what it learnt of the words beside the adapter', async () => {
    const [a, b] = [await federationOf({}, [{}]), await federationOf({}, [{}])]
    const data = { data: path('a.jsonl'), sequences: 3, maxTokens: 24, withhold: path('names.txt') }
    await a.clients[0]!.train({ ...data, rounds: 4 })
    await b.clients[0]!.train({ ...data, rounds: 2 })
    await b.clients[0]!.peer.stop()
    await b.clients[0]!.peer.start()
    await b.clients[0]!.train({ ...data, rounds: 4 })
    const [ofA, ofB] = [await a.clients[0]!.export(a.path('out')), await b.clients[0]!.export(b.path('out'))]
    expect(adapterTensors(ofA)).toEqual(adapterTensors(ofB))
    const gates = await Promise.all([a, b].map(async (federation) =>
      await (await SafetensorsFile.open(join(federation.path('out'), GATE_FILE))).readAsStored('gate')))
    expect(gates[0]).toEqual(gates[1])
    expect((gates[0]!.data as Float32Array).every((value) => value !== 0.5)).toBe(true)
    const measured = { data: path('b.jsonl'), withhold: path('names.txt') }
    expect((await a.clients[0]!.evaluate(measured)).loss).toBe((await b.clients[0]!.evaluate(measured)).loss)
  })

  it('changes nothing where the rules mark nothing, and says of rules and data what does not go together', async () => {
    const client = federations[0]!.clients[0]!
    const none = { withhold: path('none.txt') }
    const plain = await client.evaluate({ data: path('a.jsonl') })
    expect((await client.evaluate({ data: path('a.jsonl'), ...none })).loss).toBe(plain.loss)
    const asked = { prompt: 'the otter', maxTokens: 8 }
    expect((await client.generate({ ...asked, ...none })).ids).toEqual((await client.generate(asked)).ids)
    const training = { data: path('a.jsonl'), rounds: 9 }
    await expect(client.train({ ...training, ...none })).rejects.toThrow('nothing in the data is withheld by these rules')
    await writeFile(path('all.txt'), '/.+/\n')
    await expect(client.train({ ...training, withhold: path('all.txt') })).rejects.toThrow('every word of the data is withheld')
    await expect(client.train({ ...training, withhold: path('absent.txt') })).rejects.toMatchObject({ code: 'E_USAGE' })
    await expect(client.generate({ prompt: 'the', maxTokens: 1, withhold: 'rare:1%' })).rejects.toThrow('needs data whose words are counted')
  })
})
