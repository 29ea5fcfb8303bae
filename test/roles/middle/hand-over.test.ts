import fc from 'fast-check'
import { describe, expect, it, vi } from 'vitest'
import { GENERATE_PROTOCOL } from '../../../src/protocols/generate/constants.ts'
import * as generate from '../../../src/protocols/generate/messages.ts'
import { HANDOVER_PROTOCOL, MAX_HANDOVER_STREAMS, SECRET_BYTES } from '../../../src/protocols/handover/constants.ts'
import * as handover from '../../../src/protocols/handover/messages.ts'
import { openChannel } from '../../../src/protocols/wire/channel.ts'
import { chainName } from '../../../src/roles/middle/chain-name.ts'
import type { StageCache } from '../../../src/roles/middle/stage.ts'
import { float32 } from '../../../src/tensor.ts'
import { charter as charterHash } from '../../helpers/channels.ts'
import { refusalOf } from '../attacker.ts'
import { CountingBlocks, numbers, reset, statesAt } from './counting-stage.ts'
import { MemoryNetwork, MIDDLE, type MemoryClient, type MemoryServer } from './memory-servers.ts'

const CHAIN = [[1, 3], [3, 5], [5, 7]] as const
const MIDDLE_TWICE = [[1, 3], [3, 5], [3, 5], [5, 7]] as const
/** Sequences of each client, fewer than it may have. */
const SEQUENCES = 4
const limits = { maxMessageBytes: 2 ** 16, maxTensorBytes: 2 ** 20, maxTensors: 16 }

/** Sends a prompt of four tokens and then one token at a time, and returns what comes back of each message. */
async function text (cache: StageCache, end: number): Promise<number[][]> {
  const outputs: number[][] = []
  for (let position = cache.length; position < end; position = cache.length)
    outputs.push(numbers(await cache.forward(statesAt(position, position === 0 ? 4 : 1))))
  return outputs
}

/** What one machine would answer. */
function expected (end: number): number[][] {
  const blocks = new CountingBlocks(MIDDLE)
  return Array.from({ length: end - 3 }, (_, i) => {
    const position = i === 0 ? 0 : 3 + i
    return blocks.compute(numbers(statesAt(position, i === 0 ? 4 : 1).tensors), position)
  })
}

/** Which pairs of the servers that carried something handed over, by their first blocks. */
function handedOver ({ statistics }: MemoryClient): boolean[] {
  return statistics.legs.filter(({ answers }) => answers > 0).map(({ handsOver }) => handsOver)
}

async function expectNothingKept ({ servers }: MemoryNetwork): Promise<void> {
  await vi.waitFor(() => {
    for (const { closed, opened, streams } of servers) {
      expect(closed).toBe(opened)
      expect(streams.size).toBe(0)
    }
  }, { timeout: 5_000 })
}

const steps = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ send: fc.integer({ min: 1, max: 5 }) }) },
    { weight: 1, arbitrary: fc.record({ back: fc.integer({ min: 1, max: 6 }) }) }
  ),
  { minLength: 1, maxLength: 8 }
)

describe('a sequence that servers hand over', { timeout: 30_000 }, () => {
  it('is what one machine makes of it, rewound or not, whichever servers fail whenever', async () => {
    const failing = fc.record({ server: fc.integer({ min: 1, max: 2 }), request: fc.integer({ min: 1, max: 8 }) })
    await fc.assert(fc.asyncProperty(fc.option(failing), steps, async (failure, all) => {
      const network = await MemoryNetwork.of(MIDDLE_TWICE)
      const client = await network.addClient()
      if (failure !== null) network.servers[failure.server]!.onRequest = (request) => request === failure.request ? reset() : undefined
      const cache = await client.open()
      const reference = new CountingBlocks(MIDDLE)
      let position = 0
      for (const step of all) {
        if ('back' in step) {
          position = Math.max(0, position - step.back)
          cache.rewind(position)
          continue
        }
        const states = statesAt(position, step.send)
        expect(numbers(await cache.forward(states))).toEqual(reference.compute(numbers(states.tensors), position))
        position += step.send
        expect(cache.length).toBe(position)
      }
      await cache.close()
      await expectNothingKept(network)
    }), { numRuns: 20 })
  })

  it('goes from server to server, and comes back from the last one alone', async () => {
    const network = await MemoryNetwork.of(CHAIN)
    const client = await network.addClient()
    const cache = await client.open()
    expect(await text(cache, 12)).toEqual(expected(12))
    expect(handedOver(client)).toEqual([true, true, false])
    expect(network.servers.map(({ handovers }) => handovers)).toEqual([0, 1, 1])
    const [first, second, third] = client.statistics.legs
    expect(first!.sentBytes).toBeGreaterThan(second!.sentBytes + 9)
    expect(third!.receivedBytes).toBeGreaterThan(first!.receivedBytes)
    await cache.close()
    await expectNothingKept(network)
  })

  it('leaves out the one in the middle that was killed, and no other, and goes on token for token', async () => {
    const network = await MemoryNetwork.of(MIDDLE_TWICE)
    const client = await network.addClient()
    const cache = await client.open()
    const before = await text(cache, 8)
    const [first, one, other, last] = network.servers as [MemoryServer, MemoryServer, MemoryServer, MemoryServer]
    const [killed, heir] = one.received.length > 0 ? [one, other] : [other, one]
    network.kill(killed)
    expect([...before, ...await text(cache, 14)]).toEqual(expected(14))
    expect(client.leftOut.has(killed.id)).toBe(true)
    for (const name of [first.id, heir.id, last.id, chainName([first.id, heir.id]), chainName([heir.id, last.id])])
      expect(client.leftOut.has(name), name).toBe(false)
    expect(handedOver(client).at(-1)).toBe(false)
    expect(heir.received.at(-1)).toMatchObject({ position: 13 })
    expect(heir.handovers).toBe(1)
    await cache.close()
  })

  it('is carried between two of which one has no way to the other, and handed over elsewhere', async () => {
    const network = await MemoryNetwork.of(CHAIN)
    const client = await network.addClient()
    const [first, second, third] = network.servers as [MemoryServer, MemoryServer, MemoryServer]
    network.cut(first, second)
    const cache = await client.open()
    expect(await text(cache, 10)).toEqual(expected(10))
    expect(handedOver(client)).toEqual([false, true, false])
    for (const { id } of network.servers) expect(client.leftOut.has(id)).toBe(false)
    expect(client.leftOut.has(chainName([first.id, second.id]))).toBe(true)
    expect(client.leftOut.has(chainName([second.id, third.id]))).toBe(false)
    await cache.close()
    await expectNothingKept(network)
  })

  it('is carried where the answer is late and all servers live: nobody can see which of them it is', async () => {
    const network = await MemoryNetwork.of(CHAIN)
    const client = await network.addClient()
    const [first, second, third] = network.servers as [MemoryServer, MemoryServer, MemoryServer]
    second.onRequest = async (request, signal) => {
      if (request === 3) await new Promise((_, reject) => { signal!.addEventListener('abort', () => { reject(signal!.reason as Error) }) })
    }
    const cache = await client.open({ leastStallMs: 20 })
    expect(await text(cache, 10)).toEqual(expected(10))
    for (const { id } of network.servers) expect(client.leftOut.has(id)).toBe(false)
    expect(client.leftOut.has(chainName([first.id, second.id]))).toBe(true)
    expect(client.leftOut.has(chainName([second.id, third.id]))).toBe(true)
    await cache.close()
    await expectNothingKept(network)
  })

  it('leaves out the server that says nothing at all', async () => {
    const network = await MemoryNetwork.of(MIDDLE_TWICE)
    const client = await network.addClient()
    const cache = await client.open({ leastStallMs: 20 })
    const before = await text(cache, 6)
    const [, one, other] = network.servers as [MemoryServer, MemoryServer, MemoryServer, MemoryServer]
    const [silent, heir] = one.received.length > 0 ? [one, other] : [other, one]
    silent.frozen = true
    silent.onRequest = async () => { await new Promise(() => {}) }
    expect([...before, ...await text(cache, 10)]).toEqual(expected(10))
    expect(network.servers.filter(({ id }) => client.leftOut.has(id))).toEqual([silent])
    expect(heir.handovers).toBe(1)
    await cache.close()
  })

  it(`is carried where ${MAX_HANDOVER_STREAMS} others go from the one server to the other, and handed over again when there is room`, async () => {
    const network = await MemoryNetwork.of([[1, 4], [4, 7]])
    const clients: MemoryClient[] = []
    const caches: StageCache[] = []
    while (caches.length < MAX_HANDOVER_STREAMS) {
      if (caches.length % SEQUENCES === 0) clients.push(await network.addClient())
      caches.push(await clients.at(-1)!.open())
    }
    const second = network.servers[1]!
    expect(second.handovers).toBe(MAX_HANDOVER_STREAMS)
    const late = await network.addClient()
    const carried = await late.open()
    expect(second.handovers).toBe(MAX_HANDOVER_STREAMS)
    expect(await text(carried, 8)).toEqual(expected(8))
    expect(handedOver(late)).toEqual([false, false])
    for (const cache of caches) expect(await text(cache, 5)).toEqual(expected(5))
    for (const cache of [...caches, carried]) await cache.close()
    await expectNothingKept(network)
    const later = await (await network.addClient()).open()
    expect(second.handovers).toBe(1)
    await later.close()
  })

  it('ends on all servers when nothing came for long, and begins again where it was', async () => {
    const network = await MemoryNetwork.of(CHAIN, { idleTimeoutMs: 1_000 })
    const client = await network.addClient()
    const cache = await client.open()
    const before = await text(cache, 6)
    await expectNothingKept(network)
    expect([...before, ...await text(cache, 8)]).toEqual(expected(8))
    await cache.close()
  })

  it('ends at a server that was promised it and never got it', async () => {
    const network = await MemoryNetwork.of(CHAIN, { claimTimeoutMs: 30 })
    const client = await network.addClient()
    const channel = await openGeneration(client, network.servers[0]!)
    const from = { peer: network.servers[1]!.id, secret: new Uint8Array(SECRET_BYTES).fill(1) }
    await channel.send(generate.fromClient({ case: 'begin', value: { first: 1, end: 3, capacity: 8, from } }))
    expect(await refusalOf(channel)).toBe('E_HANDOVER_PREVIOUS')
    await expectNothingKept(network)
  })
})

async function openGeneration (client: MemoryClient, server: MemoryServer): Promise<generate.GenerateClientChannel> {
  return await openChannel(await client.dial(server, GENERATE_PROTOCOL), {
    protocol: GENERATE_PROTOCOL,
    outgoing: generate.ClientMessageSchema,
    incoming: generate.ServerMessageSchema,
    limits,
    identity: client.identity,
    remotePeer: server.peerId,
    charter: charterHash
  })
}

async function openHandover (client: MemoryClient, server: MemoryServer): Promise<handover.HandoverGiverChannel> {
  return await openChannel(await client.dial(server, HANDOVER_PROTOCOL), {
    protocol: HANDOVER_PROTOCOL,
    outgoing: handover.GiverMessageSchema,
    incoming: handover.TakerMessageSchema,
    limits,
    identity: client.identity,
    remotePeer: server.peerId,
    charter: charterHash
  })
}

describe('whatever a neighbour hands over', { timeout: 30_000 }, () => {
  const secret = new Uint8Array(SECRET_BYTES).fill(9)
  const number = fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 2 ** 32 - 1 }))
  const tensor = fc.tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 0, max: 3 }), fc.float())
    .map(([rows, width, value]) => float32([rows, width], new Float32Array(rows * width).fill(value)))
  const message = fc.oneof(
    fc.record({ case: fc.constant('claim' as const), value: fc.record({ secret: fc.uint8Array({ maxLength: 40 }) }) }),
    fc.record({
      case: fc.constant('rows' as const),
      value: fc.record({
        position: number, count: number, contextLength: number, maskPosition: number, stageUs: fc.array(number, { maxLength: 70 })
      }, { requiredKeys: ['position', 'count'] })
    })
  )
  const messages = fc.array(fc.tuple(message, fc.array(tensor, { maxLength: 3 })), { minLength: 1, maxLength: 4 })

  it('ends that sequence with an error that has a name, or is computed, and the others go on', async () => {
    const network = await MemoryNetwork.of([[1, 4], [4, 7]])
    const server = network.servers[0]!
    const honest = await network.addClient()
    const cache = await honest.open()
    const liar = await network.addClient()
    let position = 0
    await fc.assert(fc.asyncProperty(fc.boolean(), messages, async (claims, all) => {
      const channel = await openGeneration(liar, server)
      const from = { peer: liar.peerId.toString(), secret }
      await channel.send(generate.fromClient({ case: 'begin', value: { first: 1, end: 4, capacity: 8, from } }))
      expect((await channel.receive()).message.kind.case).toBe('ready')
      const giver = await openHandover(liar, server)
      try {
        if (claims) await giver.send(handover.fromGiver({ case: 'claim', value: { secret } }))
        for (const [kind, tensors] of all) await giver.send(handover.fromGiver(kind), tensors)
        await giver.close()
      } catch (error) {
        expect((error as { code?: string }).code).toMatch(/^E_/)
      }
      if (claims) expect(await refusalOf(channel)).toMatch(/^E_HANDOVER_PREVIOUS$|^E_CHANNEL_CLOSED$/)
      else channel.abort(new Error('nobody came'))
      const states = statesAt(position, 1)
      await cache.forward(states)
      if (++position === 60) cache.rewind(position = 0)
    }), { numRuns: 60 })
    await cache.close()
    await expectNothingKept(network)
  })
})
