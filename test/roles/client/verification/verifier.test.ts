import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { PeerId } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { describe, expect, it } from 'vitest'
import type { StageCheck } from '../../../../src/api/stage-checks.ts'
import { CaughtServers } from '../../../../src/roles/client/verification/caught-servers.ts'
import { chanceOfCheck } from '../../../../src/roles/client/verification/limits.ts'
import { Verifier } from '../../../../src/roles/client/verification/verifier.ts'
import type { KnownServer, Logger } from '../../../../src/roles/context.ts'
import type { Arithmetic } from '../../../../src/roles/middle/arithmetic.ts'
import { RouteRecord } from '../../../../src/roles/middle/route-record.ts'
import type { StageCache } from '../../../../src/roles/middle/stage.ts'
import { float32 } from '../../../../src/tensor.ts'
import { temporaryDirectory } from '../../../node/fixture.ts'
import { CountingServer, numbers, statesAt } from '../../middle/counting-stage.ts'

const SPAN = { first: 1, end: 3 }
const FULL: Arithmetic = { weights: 'fp16', device: 'cpu', compute: 'fp32' }
const silent: Logger = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} }
const signal = AbortSignal.timeout(20_000)
/** Twenty answers of one token each. */
const TOKENS = 20

/** A server that answers something else where a test says so. */
class TestServer extends CountingServer {
  readonly peerId: PeerId
  round: number | undefined = 0
  arithmetic = FULL
  connected = true
  /** What it answers in place of what it computed, by the number of answers before. */
  falsify: (values: number[], answer: number) => number[] = (values) => values
  answers = 0

  private constructor (peerId: PeerId) {
    super(peerId.toString(), SPAN)
    this.peerId = peerId
  }

  static async create (): Promise<TestServer> {
    return new TestServer(peerIdFromPrivateKey(await generateKeyPair('Ed25519')))
  }

  override async openCache (span: typeof SPAN, capacity: number): Promise<StageCache> {
    const cache = await super.openCache(span, capacity)
    const { arithmetic } = this
    const round = (): number | undefined => this.round
    const answer = async (...given: Parameters<StageCache['forward']>): ReturnType<StageCache['forward']> => {
      const outputs = this.falsify(numbers(await cache.forward(...given)), this.answers++)
      return [float32([outputs.length, 1], outputs)]
    }
    return {
      capacity,
      arithmetic,
      get round () { return round() },
      get length () { return cache.length },
      forward: answer,
      rewind: (position) => { cache.rewind(position) },
      close: async () => { await cache.close() }
    }
  }

  get known (): KnownServer {
    return { peerId: this.peerId, connected: this.connected, isCoordinator: false, span: SPAN, load: undefined, roundTripMs: undefined }
  }
}

const negated = (values: number[]): number[] => values.map((value) => -value)

async function setUp (count: number, path?: string, share = 1) {
  const servers = await Promise.all(Array.from({ length: count }, async () => await TestServer.create()))
  const caught = await CaughtServers.open(path ?? join(await temporaryDirectory(), 'caught.json'), silent)
  const verifier = new Verifier({
    directory: { servers: () => servers.map(({ known }) => known), onServersChanged: () => () => {} },
    leftOut: { has: () => false },
    caught,
    logger: silent,
    wire: 'fp32',
    share,
    stageOn: (peerId) => servers.find((server) => server.peerId.equals(peerId))!
  })
  /** Has a server answer to a text of its own, one token after another. */
  const text = async (server: TestServer, seed = 0, tokens = TOKENS): Promise<RouteRecord> => {
    const record = new RouteRecord()
    const cache = await server.openCache(SPAN, tokens)
    for (let position = 0; position < tokens; position++) {
      const states = statesAt(position, 1, seed)
      record.answered({ server: server.id, span: SPAN }, cache, states, await cache.forward(states))
    }
    await cache.close()
    return record
  }
  const checked = async (server: TestServer, seed = 0): Promise<StageCheck> =>
    (await verifier.check(await text(server, seed), signal))[0]!
  return { servers, caught, verifier, text, checked }
}

describe('a check of a server', () => {
  it('finds nothing where all are honest, however often', async () => {
    const { servers: [server], verifier, caught, checked } = await setUp(3)
    for (let seed = 0; seed < 500; seed++) expect(await checked(server!, seed)).toMatchObject({ verdict: 'agrees', tokens: TOKENS, distance: 0 })
    expect(verifier.status).toMatchObject({ checked: 500, tokens: 500 * TOKENS, differing: 0, unchecked: 0, caught: [] })
    expect(caught.all).toEqual([])
  })

  it.each<[string, (values: number[], answer: number) => number[]]>([
    ['a sign that is flipped in one of 50 answers', (values, answer) => answer % 50 === 17 ? negated(values) : values],
    ['zeros', (values) => values.map(() => 0)],
    ['weights of another round', (values) => values.map((value) => value * 1.02)]
  ])('finds %s within the documented number of texts, names the server and leaves it out', async (_, falsify) => {
    const { servers: [server], verifier, caught, checked } = await setUp(3)
    server!.falsify = falsify
    let texts = 0
    let check: StageCheck | undefined
    while (check?.verdict !== 'wrong' && texts < 10) check = await checked(server!, texts++)
    expect(check).toMatchObject({ verdict: 'wrong', wrong: server!.id })
    expect(check!.by).toHaveLength(2)
    // A wrong answer among 50, in texts of 20 answers, is in the first, second or third text.
    expect(texts).toBeLessThanOrEqual(3)
    expect(caught.has(server!.id)).toBe(true)
    expect(caught.all).toHaveLength(1)
    expect(verifier.takeNotices()).toEqual([`${server!.id} computed blocks 1-3 wrong, as two other servers found: routes leave it out`])
    expect(verifier.takeNotices()).toEqual([])
  })

  it('finds the server that checked wrong, and not the one that was checked', async () => {
    const { servers: [server, liar], caught, checked } = await setUp(3)
    liar!.falsify = negated
    const found = new Set<string | null>()
    for (let seed = 0; seed < 20; seed++) found.add((await checked(server!, seed)).wrong)
    expect(found).toEqual(new Set([null, liar!.id]))
    expect(caught.has(server!.id)).toBe(false)
  })

  it('names both where there are only two, and leaves neither out', async () => {
    const { servers: [server, other], verifier, caught, checked } = await setUp(2)
    server!.falsify = negated
    expect(await checked(server!)).toMatchObject({ verdict: 'differs', by: [other!.id], wrong: null, reason: 'nobody else serves blocks 1-3' })
    expect(caught.all).toEqual([])
    expect(verifier.takeNotices()[0]).toContain(`${server!.id} and ${other!.id} do not agree on blocks 1-3`)
    expect(verifier.status.differing).toBe(1)
  })

  it('says that a server whose blocks nobody else has cannot be checked', async () => {
    const { servers: [server, other], verifier, checked } = await setUp(2)
    other!.connected = false
    expect(await checked(server!)).toMatchObject({ verdict: 'unchecked', tokens: 0, reason: 'nobody else serves blocks 1-3' })
    expect(verifier.status).toMatchObject({ checked: 0, unchecked: 1 })
  })

  it('compares only what was computed with the same adapters', async () => {
    const { servers: [server, ...others], verifier, checked } = await setUp(3)
    // Other adapters give other values, which nobody may be accused of.
    server!.falsify = (values, answer) => {
      if (answer === 11) server!.round = 1
      return answer < 11 ? values : negated(values)
    }
    expect(await checked(server!)).toMatchObject({ verdict: 'agrees', tokens: 11 })
    for (const other of others) other.round = 2
    expect(await checked(server!, 1)).toMatchObject({ verdict: 'unchecked', reason: 'the adapters of the other servers are of another round' })
    server!.round = undefined
    expect(await checked(server!, 2)).toMatchObject({ verdict: 'unchecked', reason: 'the server did not say which round its adapters are of' })
    expect(verifier.takeNotices()).toEqual([])
  })

  it('asks another server where one cannot compute', async () => {
    const { servers: [server, broken, sound], checked } = await setUp(3)
    broken!.onOpen = () => { throw new Error('it is full') }
    for (let seed = 0; seed < 5; seed++) expect(await checked(server!, seed)).toMatchObject({ verdict: 'agrees', by: [sound!.id] })
  })

  it('sends the second server exactly what the first was sent', async () => {
    const { servers: [server, other], checked } = await setUp(2)
    await checked(server!, 3)
    expect(other!.received.flatMap(({ values }) => values)).toEqual(server!.received.flatMap(({ values }) => values))
  })

  it('forgets what was overwritten, and checks what came in its place', async () => {
    const { servers: [server], verifier } = await setUp(2)
    const record = new RouteRecord()
    const cache = await server!.openCache(SPAN, TOKENS)
    for (const [position, seed] of [[0, 0], [1, 0], [2, 0], [1, 9], [2, 9]] as const) {
      if (position < cache.length) cache.rewind(position)
      const states = statesAt(position, 1, seed)
      record.answered({ server: server!.id, span: SPAN }, cache, states, await cache.forward(states))
    }
    expect(await verifier.check(record, signal)).toMatchObject([{ verdict: 'agrees', tokens: 3 }])
  })

  it('is done in the background, a few texts at a time, and ends with the client', async () => {
    const { servers: [server, other], verifier, text } = await setUp(2)
    const { promise: held, resolve } = Promise.withResolvers<void>()
    other!.onOpen = async () => { await held }
    for (let seed = 0; seed < 7; seed++) verifier.later(await text(server!, seed))
    expect(verifier.status).toMatchObject({ checked: 0, unchecked: 3 })
    resolve()
    await expect.poll(() => verifier.status.checked).toBe(4)
    verifier.later(await text(server!))
    await verifier.stop()
    verifier.later(await text(server!))
    expect(verifier.status.checked).toBeLessThanOrEqual(5)
  })

  it('chooses texts as often as the share says', async () => {
    const { verifier } = await setUp(1)
    expect([verifier.draw(), verifier.draw(0), verifier.draw(1)]).toEqual([true, false, true])
    const drawn = Array.from({ length: 20_000 }, () => verifier.draw(0.05)).filter(Boolean).length
    expect(drawn / 20_000).toBeGreaterThan(0.04)
    expect(drawn / 20_000).toBeLessThan(0.06)
    expect(chanceOfCheck(0.05, 14)).toBeGreaterThan(0.5)
  })
})

describe('a text may be checked', () => {
  it.each([
    [0, undefined, false], [0, 0, false], [0, 0.01, true], [0.01, undefined, true], [0.01, 0, true]
  ] as const)('with a share of %d on the client and %d for the text: %s', async (share, ofText, may) => {
    const { verifier } = await setUp(1, undefined, share)
    expect(verifier.mayCheck(ofText)).toBe(may)
  })
})

describe('the servers that were caught', () => {
  it('are left out after a restart, for thirty days', async () => {
    const path = join(await temporaryDirectory(), 'caught.json')
    const { servers: [server], checked } = await setUp(3, path)
    server!.falsify = negated
    expect(await checked(server!)).toMatchObject({ verdict: 'wrong' })
    let nowMs = Date.now()
    const again = await CaughtServers.open(path, silent, () => nowMs)
    expect(again.all).toMatchObject([{ server: server!.id, blocks: SPAN, tokens: TOKENS }])
    nowMs += 30 * 86_400_000
    expect([again.has(server!.id), again.all]).toEqual([false, []])
  })

  it('begin anew where the file is damaged, and the log says so', async () => {
    const path = join(await temporaryDirectory(), 'caught.json')
    for (const text of ['{', '[{"server":1}]', '{}']) {
      const warnings: string[] = []
      await writeFile(path, text)
      const caught = await CaughtServers.open(path, { ...silent, warn: (_details: object, message: string) => { warnings.push(message) } })
      expect(caught.all).toEqual([])
      expect(warnings).toHaveLength(1)
      await caught.add({ server: 'a', blocks: SPAN, tokens: 1, distance: 2 })
      expect(JSON.parse(await readFile(path, 'utf8'))).toHaveLength(1)
    }
  })
})
