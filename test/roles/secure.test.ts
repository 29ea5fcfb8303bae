import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CreateOptions } from '../../src/node/federation/create.ts'
import { fromClient } from '../../src/protocols/train/messages.ts'
import { SecureContributions } from '../../src/roles/client/training/secure-contributions.ts'
import { isSignedByPeer, replyMessage, requestOf, signerOf } from '../../src/roles/secure-messages.ts'
import { float32, type Tensor } from '../../src/tensor.ts'
import { relativeError } from '../helpers/golden.ts'
import { writeTinyModel } from '../helpers/tiny-model.ts'
import { Attacker } from './attacker.ts'
import { copyWithExactTokenizer, writeExactData } from './exact-data.ts'
import { adapterTensors, startFederation, type RoundEvent, type TestFederation } from './helpers.ts'

const BOS = 1
const CLIENTS = [0, 1, 2]
const ROUNDS = 12
const SEQUENCES = 2
const ROWS = 6
/** Of a tensor's largest value: what float32 sums in another order differ by after so many steps. */
const TOLERANCE = 1e-4
const charter: Partial<CreateOptions> = {
  seed: '5eed',
  loraR: 2,
  loraAlpha: 4,
  loraTargets: ['q', 'down'],
  learningRate: 1e-2,
  epsilon: 1e-5,
  inputBlocks: { min: 1, max: 1 },
  outputBlocks: { min: 1, max: 1 },
  minClients: CLIENTS.length,
  roundDeadline: 3_000
}
const secure = { mode: 'secure', minContributors: CLIENTS.length } as const

describe('a federation whose contributions are summed securely', { timeout: 180_000 }, () => {
  let root: string
  let path: string
  let federation: TestFederation | undefined

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'midspan-secure-'))
    await writeTinyModel(join(root, 'tiny'))
    path = await copyWithExactTokenizer(join(root, 'tiny'), join(root, 'model'))
    for (const client of CLIENTS) {
      const record = (index: number): number[] =>
        [BOS, ...Array.from({ length: 3 + (5 * client + 4 * index) % 11 }, (_, j) => 2 + (7 * j + 11 * index + 5 * client) % 29)]
      const batch = (round: number): number[][] => Array.from({ length: SEQUENCES }, (_, index) => record(SEQUENCES * round + index))
      await writeExactData(data(client), Array.from({ length: ROUNDS }, (_, round) => batch(round)))
    }
  })
  afterAll(async () => {
    await federation?.stop()
    await rm(root, { recursive: true, force: true })
  })

  const data = (client: number): string => join(root, `${client}.jsonl`)

  /** The adapters of each client after training, in which a member may take part in a round and vanish. */
  async function trained (changes: Partial<CreateOptions>, attacks = false): Promise<Array<Map<string, Tensor>>> {
    const started = federation = await startFederation({
      model: path, charter: { ...charter, ...changes }, clients: CLIENTS.map(() => ({})), identities: 'secure'
    })
    const attacker = attacks ? await Attacker.join(started, 'vanishing') : undefined
    let attack: Promise<void> | undefined
    await Promise.all(started.clients.map(async (client, index) => {
      const parameters = { data: data(index), rounds: ROUNDS, packing: 'padded', sequences: SEQUENCES, maxTokens: 32 }
      for await (const event of client.peer.events('train', parameters)) {
        if ((event as RoundEvent).type !== 'round') continue
        expect(event).toMatchObject({ leftOut: false })
        if (attacker !== undefined) attack ??= vanishBeforeMask(attacker)
      }
    }))
    await attack
    const adapters: Array<Map<string, Tensor>> = []
    for (const [index, client] of started.clients.entries())
      adapters.push(adapterTensors(await client.export(started.path(`adapter-${index}`))))
    federation = undefined
    await started.stop()
    return adapters
  }

  function expectEqual (actual: ReadonlyArray<Map<string, Tensor>>, expected: ReadonlyArray<Map<string, Tensor>>): void {
    for (const [client, adapters] of expected.entries()) {
      expect([...actual[client]!.keys()]).toEqual([...adapters.keys()])
      for (const [name, { data: values }] of adapters)
        expect(relativeError(actual[client]!.get(name)!.data as Float32Array, values as Float32Array), name).toBeLessThan(TOLERANCE)
    }
  }

  it('trains what it trains where contributions are plain, also with a member that is lost before it contributed', async () => {
    const plain = await trained({})
    expectEqual(await trained({ aggregation: secure }, true), plain)
  })

  it('averages what it averages where contributions are plain', async () => {
    const ends = { mode: 'average', every: 3 } as const
    expectEqual(await trained({ ends, aggregation: secure }), await trained({ ends }))
  })
})

/** Takes part in a round until the masked contribution is due, and vanishes. */
async function vanishBeforeMask (attacker: Attacker): Promise<void> {
  const { identity, charter: { model }, charterHash } = attacker.context
  const sums = new SecureContributions({
    federation: Buffer.from(charterHash).toString('hex'),
    minContributors: CLIENTS.length,
    signer: signerOf(identity),
    verify: isSignedByPeer,
    known: undefined,
    noteReveal: async () => {},
    notify: () => {}
  })
  const rows = (): Tensor => float32([ROWS, model.hidden], Float32Array.from({ length: ROWS * model.hidden }, () => Math.random() - 0.5))
  const channel = await attacker.training()
  await channel.send(fromClient({ case: 'enlist', value: { middle: { first: 1, end: model.blocks - 1 }, round: 0 } }))
  for (;;) {
    const { message: { kind } } = await channel.receive(AbortSignal.timeout(30_000))
    if (kind.case === 'begin') await channel.send(fromClient({ case: 'forward', value: { round: kind.value.round, lengths: [ROWS] } }), [rows()])
    if (kind.case === 'hidden') await channel.send(fromClient({ case: 'backward', value: { round: kind.value.round, tokens: ROWS } }), [rows()])
    if (kind.case !== 'secureRequest') continue
    const request = requestOf(kind.value)
    if (request.step === 'mask') return channel.abort(new Error('gone'))
    if (request.step === 'advertise') sums.offer(kind.value.round, new Float32Array(request.values))
    const reply = await sums.answer(kind.value, request)
    const [message, tensors] = replyMessage(kind.value, reply!)
    await channel.send(fromClient(message), tensors)
  }
}
