import { readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import { CipherSuite, DhkemX25519HkdfSha256, ExportOnly, HkdfSha256 } from '@hpke/core'
import type { PeerId, PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { streamPair } from '@libp2p/utils'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { roles } from '../../src/node/daemon/roles.ts'
import { homeAt } from '../../src/node/home/home.ts'
import { loadIdentity } from '../../src/node/home/identity.ts'
import { GENERATE_PROTOCOL } from '../../src/protocols/generate/constants.ts'
import * as generate from '../../src/protocols/generate/messages.ts'
import { TRAIN_PROTOCOL } from '../../src/protocols/train/constants.ts'
import { acceptChannel, openChannel } from '../../src/protocols/wire/channel.ts'
import { decodeLength, encodeHead } from '../../src/protocols/wire/framing.ts'
import type * as Handshake from '../../src/protocols/wire/handshake.ts'
import { agreeAsClient, type Agreement } from '../../src/protocols/wire/handshake.ts'
import { FrameOpener } from '../../src/protocols/wire/opener.ts'
import { StreamSink } from '../../src/protocols/wire/sink.ts'
import { StreamSource } from '../../src/protocols/wire/source.ts'
import { ConfirmSchema, ControlHeaderSchema, FrameHeaderSchema, OfferSchema } from '../../src/protocols/wire/wire_pb.ts'
import type { ClientContext } from '../../src/roles/context.ts'
import { dataPath, hasData } from '../helpers/data.ts'
import { watchReleases } from '../helpers/releases.ts'
import { startFederation, type TestClient, type TestFederation } from './helpers.ts'
import { Tap, type Attack, type TappedStream } from './tap.ts'

/** What clients of this process agreed on, by session id in hex: for the test alone to know. */
const agreed = new Map<string, Agreement>()
vi.mock('../../src/protocols/wire/handshake.ts', async (load) => {
  const actual = await load<typeof Handshake>()
  return {
    ...actual,
    agreeAsClient: async (...parameters: Parameters<typeof Handshake.agreeAsClient>) => {
      const agreement = await actual.agreeAsClient(...parameters)
      agreed.set(Buffer.from(agreement.sessionId).toString('hex'), structuredClone(agreement))
      return agreement
    }
  }
})

const MODEL = 'stories260K-hf'
const TIMEOUT_MS = 120_000
const MAX_BODY_BYTES = 2 ** 24
const soon = (): AbortSignal => AbortSignal.timeout(30_000)

/** How an opener fares with a recorded frame; it is ready for the next one then. */
function attempt (opener: FrameOpener, frame: Buffer): 'opened' | 'forged' {
  const { bytes, value } = decodeLength(frame)!
  const headerBytes = frame.subarray(bytes, bytes + value)
  const { header } = opener.parse(headerBytes)
  opener.begin(header, headerBytes)
  try {
    expect(opener.add(frame.subarray(bytes + value))).toBeDefined()
    return 'opened'
  } catch (error) {
    expect(error).toMatchObject({ code: 'E_FRAME_FORGED' })
    return 'forged'
  }
}

/** The message of a handshake frame. */
function handshakeMessage (frame: Buffer): Uint8Array {
  const { bytes, value } = decodeLength(frame)!
  return fromBinary(ControlHeaderSchema, frame.subarray(bytes, bytes + value)).message
}

function changedHeader (frame: Buffer, changes: Partial<{ session: Uint8Array, sequence: number }>): Buffer {
  const { bytes, value } = decodeLength(frame)!
  const header = fromBinary(FrameHeaderSchema, frame.subarray(bytes, bytes + value))
  return Buffer.concat([encodeHead(toBinary(FrameHeaderSchema, Object.assign(header, changes))), frame.subarray(bytes + value)])
}

function flipped (frame: Buffer, at: number): Buffer {
  const copy = Buffer.from(frame)
  copy[at] = (copy[at] ?? 0) ^ 1
  return copy
}

describe.skipIf(!hasData(MODEL))('client B between client A and the server', { timeout: TIMEOUT_MS }, () => {
  const tap = new Tap()
  const sample = hasData(MODEL) ? JSON.parse(readFileSync(dataPath('stories260K', 'expected_greedy_ids.json'), 'utf8')) as number[] : []
  let federation: TestFederation
  let a: TestClient
  let b: TestClient
  let contextOfB: ClientContext
  let identityOfB: PrivateKey
  beforeAll(async () => {
    federation = await startFederation({
      model: dataPath(MODEL),
      charter: { clip: 6, inputBlocks: { min: 1, max: 1 }, outputBlocks: { min: 1, max: 1 } },
      clients: []
    })
    a = await federation.join('a', { noise: 0.1, gradientNoise: 0.1 }, tap.roles)
    b = await federation.join('b', {}, { ...roles, client: async (context) => await roles.client(contextOfB = context) })
    identityOfB = (await loadIdentity(homeAt(b.home).identity))!
    await writeFile(
      federation.path('a.txt'),
      Array.from({ length: 40 }, (_, i) => `My secret garden number ${i} lies behind the old mill.`).join('\n\n')
    )
  }, TIMEOUT_MS)
  afterEach(() => {
    tap.attack = (frame) => [frame]
    tap.streams.length = 0
    vi.restoreAllMocks()
  })
  afterAll(async () => { await federation.stop() })

  const serverId = (): PeerId => contextOfB.servers()[0]!.peerId
  const data = () => ({ data: federation.path('a.txt'), maxTokens: 32, sequences: 4 })

  /** What a client agrees on with the server for a session of its own. */
  async function sessionOfB (protocol: string): Promise<Agreement> {
    const peerId = serverId()
    const stream = await contextOfB.dial(peerId, protocol, soon())
    const medium = { stream, source: new StreamSource(stream, 30_000), sink: new StreamSink(stream, 30_000) }
    const agreement = await agreeAsClient(
      medium,
      { protocol, identity: identityOfB, remotePeer: peerId, charter: contextOfB.charterHash },
      soon()
    )
    stream.abort(new Error('enough'))
    return agreement
  }

  /** What comes of A's encapsulation with a private key of B's, whose public half the server never offered. */
  async function guessedSecrets ({ handshake }: TappedStream): Promise<Uint8Array[]> {
    const suite = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new ExportOnly() })
    const { enc } = fromBinary(ConfirmSchema, handshakeMessage(handshake.c2s[1]!))
    const recipientKey = await suite.kem.importKey('raw', Uint8Array.from(identityOfB.raw.subarray(0, 32)).buffer, false)
    const context = await suite.createRecipientContext({ recipientKey, enc })
    return await Promise.all(
      ['midspan/wire/1 c2s', 'midspan/wire/1 s2c'].map(async (label) =>
        new Uint8Array(await context.export(new TextEncoder().encode(label), 32))
      )
    )
  }

  it("opens no frame of training, evaluation or generation, with its identity, its sessions' secrets or its own encapsulation", async () => {
    await a.train({ ...data(), rounds: 3, fresh: true })
    await a.evaluate({ ...data(), limit: 4 })
    await a.generate({ prompt: 'Once', maxTokens: 10 })
    let tried = 0
    for (const tapped of tap.streams) {
      const { session: sessionId } = fromBinary(OfferSchema, handshakeMessage(tapped.handshake.s2c[0]!))
      const own = await sessionOfB(tapped.protocol)
      const secrets = [own.c2s, own.s2c, identityOfB.raw.subarray(0, 32), new Uint8Array(32), ...await guessedSecrets(tapped)]
      const truth = agreed.get(Buffer.from(sessionId).toString('hex'))!
      for (const direction of ['c2s', 's2c'] as const) {
        const binding = { protocol: tapped.protocol, sessionId, direction }
        const openers = secrets.map((secret) => new FrameOpener(secret, binding, MAX_BODY_BYTES))
        const ofA = new FrameOpener(truth[direction], binding, MAX_BODY_BYTES)
        for (const frame of tapped.frames[direction]) {
          // That A's own secret opens every frame shows that nothing but the secret keeps B out.
          expect(attempt(ofA, frame)).toBe('opened')
          for (const opener of openers) expect(attempt(opener, frame)).toBe('forged')
          tried++
        }
      }
    }
    expect(new Set(tap.streams.map(({ protocol }) => protocol))).toEqual(new Set([TRAIN_PROTOCOL, GENERATE_PROTOCOL]))
    // Three rounds of three answers, evaluations, tokens, and what comes down for them.
    expect(tried).toBeGreaterThan(40)
  })

  it('sees no byte of A\'s rows, released or clean, nor of its text', async () => {
    const secrets: Buffer[] = []
    watchReleases((clean, { tensors }) => {
      for (const { data } of [clean, ...tensors])
        secrets.push(Buffer.from(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)))
    })
    await a.train({ ...data(), rounds: 2, fresh: true })
    await a.evaluate({ ...data(), limit: 4 })
    await a.generate({ prompt: 'My secret garden', maxTokens: 10 })
    const seen = tap.bytes
    expect(secrets.length).toBeGreaterThan(20)
    expect(seen.byteLength).toBeGreaterThan(secrets.reduce((sum, { byteLength }) => sum + byteLength, 0) / 2)
    for (const bytes of secrets) {
      // A tensor keeps its order, so that four values of every sixteenth row would be enough to find it.
      for (let at = 0; at + 16 <= bytes.byteLength; at += 4096) expect(seen.includes(bytes.subarray(at, at + 16))).toBe(false)
    }
    for (const words of ['secret', 'garden', 'self_attn', 'lora']) expect(seen.includes(words)).toBe(false)
  })

  /** The second row up, or the second down: what comes before it shows that the session worked. */
  const ATTACKED = 2
  const on = (direction: 'c2s' | 's2c', act: (frame: Buffer) => Buffer[] | 'end'): Attack => (frame, at) =>
    at.protocol === GENERATE_PROTOCOL && at.direction === direction && at.index === ATTACKED ? act(frame) : [frame]

  /** A frame of another session of A's, from the place of the attacked one. */
  async function otherSession (direction: 'c2s' | 's2c'): Promise<Buffer> {
    await a.generate({ ids: [1], maxTokens: 4 })
    return tap.streams.findLast(({ protocol }) => protocol === GENERATE_PROTOCOL)!.frames[direction][ATTACKED]!
  }

  const attacks: ReadonlyArray<readonly [string, string, (stolen: Buffer) => (frame: Buffer) => Buffer[] | 'end']> = [
    ['an altered frame', 'E_FRAME_FORGED', () => (frame) => [flipped(frame, frame.length >> 1)]],
    ['an altered tag', 'E_FRAME_FORGED', () => (frame) => [flipped(frame, frame.length - 1)]],
    ['a replayed frame', 'E_FRAME_REPLAYED', () => (frame) => [frame, frame]],
    ['a dropped or reordered frame', 'E_FRAME_REORDERED', () => (frame) => [changedHeader(frame, { sequence: ATTACKED + 1 }), frame]],
    ['a frame of another session', 'E_FRAME_FOREIGN', (stolen) => () => [stolen]],
    ['a frame of another session under this one\'s name', 'E_FRAME_FORGED', (stolen) => (frame) => {
      const { bytes, value } = decodeLength(frame)!
      return [changedHeader(stolen, { session: fromBinary(FrameHeaderSchema, frame.subarray(bytes, bytes + value)).session })]
    }]
  ]

  for (const direction of ['c2s', 's2c'] as const) {
    it.each(attacks)(`is refused ${direction === 'c2s' ? 'on the way up' : 'on the way down'}: %s (%s)`, async (_, code, attack) => {
      const stolen = await otherSession(direction)
      tap.attack = on(direction, attack(stolen))
      const others = b.generate({ ids: [1], maxTokens: 20 })
      await expect(a.generate({ ids: [1], maxTokens: 12 })).rejects.toMatchObject({ code })
      // The session is over, its cache is free, and who was not attacked never noticed.
      expect((await others).ids).toEqual(sample.slice(1, 21))
      await vi.waitFor(() => {
        expect(federation.server.daemon.status().generation).toMatchObject({ sequences: 0, cacheBytes: 0 })
      }, 10_000)
      expect(tap.streams.findLast(({ protocol }) => protocol === GENERATE_PROTOCOL)!.frames[direction].length).toBeGreaterThan(ATTACKED)
    })
  }

  it.each(['c2s', 's2c'] as const)('cuts a stream between frames (%s), and the text goes on as it was on another stream', async (direction) => {
    let cut = false
    tap.attack = on(direction, (frame) => {
      if (cut) return [frame]
      cut = true
      return 'end'
    })
    expect((await a.generate({ ids: [1], maxTokens: 12 })).ids).toEqual(sample.slice(1, 13))
    expect(cut).toBe(true)
  })

  it.each(['c2s', 's2c'] as const)('cuts every stream between frames (%s), and the client gives up by its timeout', async (direction) => {
    tap.attack = on(direction, () => 'end')
    await expect(a.generate({ ids: [1], maxTokens: 12, timeoutMs: 2_000 })).rejects.toMatchObject({
      code: expect.stringMatching(/^E_(FRAME_TRUNCATED|SERVER_TIMEOUT)$/) as string
    })
    await vi.waitFor(() => {
      expect(federation.server.daemon.status().generation).toMatchObject({ sequences: 0, cacheBytes: 0 })
    }, 10_000)
  })

  it('cannot offer a key of its own in the server\'s place', async () => {
    const server = serverId()
    const [near, far] = await streamPair()
    const common = {
      protocol: GENERATE_PROTOCOL,
      charter: contextOfB.charterHash,
      limits: { maxMessageBytes: 256, maxTensorBytes: 2 ** 20, maxTensors: 2 }
    }
    const identityOfA = (await loadIdentity(homeAt(a.home).identity))!
    const asA = openChannel(near, {
      ...common,
      outgoing: generate.ClientMessageSchema,
      incoming: generate.ServerMessageSchema,
      identity: identityOfA,
      remotePeer: server
    }, soon())
    const asB = acceptChannel(far, {
      ...common,
      outgoing: generate.ServerMessageSchema,
      incoming: generate.ClientMessageSchema,
      identity: identityOfB,
      remotePeer: peerIdFromPrivateKey(identityOfA)
    }, soon())
    await expect(asA).rejects.toMatchObject({ code: 'E_HANDSHAKE' })
    await expect(asB).rejects.toBeInstanceOf(Error)
  })

  it('cannot pass A\'s handshake off as its own', async () => {
    await a.generate({ ids: [1], maxTokens: 2 })
    const { handshake } = tap.streams.findLast(({ protocol }) => protocol === GENERATE_PROTOCOL)!
    const peerId = serverId()
    const stream = await contextOfB.dial(peerId, GENERATE_PROTOCOL, soon())
    const source = new StreamSource(stream, 30_000)
    for (const frame of handshake.c2s) stream.send(frame)
    const answers: Buffer[] = []
    await (async () => { for await (const chunk of source) answers.push(Buffer.from(chunk)) })().catch(() => {})
    expect(Buffer.concat(answers).includes('E_HANDSHAKE')).toBe(true)
  })
})
