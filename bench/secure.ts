/**
 * What a secure sum costs a client and the server, in memory: bytes, and milliseconds of one processor core, with a third of the
 * clients lost before they contribute and without. Run: node bench/secure.ts [VALUES, 100,000 by default]
 */
import { generateKeyPairSync, sign, verify, type KeyObject } from 'node:crypto'
import { Aggregator } from '../src/roles/training/aggregation/secure/aggregator.ts'
import { MIN_CONTRIBUTORS } from '../src/roles/training/aggregation/secure/constants.ts'
import { Contributor } from '../src/roles/training/aggregation/secure/contributor.ts'
import { cohortsOf } from '../src/roles/training/aggregation/secure/exchange.ts'
import type { Advertisement, Box, RevealedShare, Verify } from '../src/roles/training/aggregation/secure/messages.ts'

const values = Number(process.argv[2] ?? 100_000)
/** Names as long as peer ids. */
const PEER_BYTES = 52
const minContributors = MIN_CONTRIBUTORS

interface Cost {
  sentBytes: number
  receivedBytes: number
  clientMs: number
  serverMs: number
}

/** Clients whose time is measured: the others do the same. */
const MEASURED = 4

async function timed<Result> (cost: Cost, which: 'clientMs' | 'serverMs', work: () => Promise<Result> | Result): Promise<Result> {
  const before = process.cpuUsage()
  const result = await work()
  const { user, system } = process.cpuUsage(before)
  cost[which] += (user + system) / 1000
  return result
}

/** One sum over one cohort. Times and bytes of clients are those of one client, the mean of a few. */
async function cohort (peers: readonly string[], lost: ReadonlySet<string>): Promise<Cost> {
  const keys = new Map<string, { privateKey: KeyObject, publicKey: KeyObject }>(peers.map((peer) => [peer, generateKeyPairSync('ed25519')]))
  const check: Verify = async (peer, bytes, signature) => verify(null, bytes, keys.get(peer)!.publicKey, signature)
  const attempt = { federation: '00'.repeat(32), round: 0, attempt: 0, values }
  const clients = new Map(peers.map((peer) => [peer, new Contributor({
    attempt,
    minContributors,
    verify: check,
    signer: { peer, sign: async (bytes) => new Uint8Array(sign(null, bytes, keys.get(peer)!.privateKey)) }
  })]))
  const measured = new Set(peers.filter((peer) => !lost.has(peer)).slice(0, MEASURED))
  const cost: Cost = { sentBytes: 0, receivedBytes: 0, clientMs: 0, serverMs: 0 }
  const unmeasured: Cost = { ...cost }
  const asked = async <Reply> (
    who: Iterable<string>,
    ask: (client: Contributor, peer: string) => Promise<Reply>,
    sent: (reply: Reply) => number,
    received: (peer: string) => number
  ): Promise<Map<string, Reply>> => {
    const replies = new Map<string, Reply>()
    for (const peer of who) {
      const counts = measured.has(peer)
      const reply = await timed(counts ? cost : unmeasured, 'clientMs', async () => await ask(clients.get(peer)!, peer))
      if (counts) cost.sentBytes += sent(reply)
      if (counts) cost.receivedBytes += received(peer)
      replies.set(peer, reply)
    }
    return replies
  }
  const input = new Float32Array(values).fill(0.5)
  const aggregator = new Aggregator({ attempt, verify: check, minContributors })
  const keyBytes = ({ sealingKey, maskingKey, signature }: Advertisement): number =>
    PEER_BYTES + sealingKey.byteLength + maskingKey.byteLength + signature.byteLength
  const boxBytes = (boxes: readonly Box[]): number => boxes.reduce((sum, { box }) => sum + PEER_BYTES + box.byteLength, 0)
  const shareBytes = (shares: readonly RevealedShare[]): number =>
    shares.reduce((sum, { share }) => sum + PEER_BYTES + 2 + share.byteLength, 0)
  const advertised = await asked(peers, async (client) => await client.advertise(), keyBytes, () => 4)
  const roster = (await timed(cost, 'serverMs', async () => await aggregator.roster(advertised)))!
  const rosterBytes = roster.reduce((sum, entry) => sum + keyBytes(entry), 0)
  const shared = await asked(peers, async (client) => await client.share(roster), boxBytes, () => rosterBytes)
  const boxes = (await timed(cost, 'serverMs', () => aggregator.shares(shared)))!
  const staying = peers.filter((peer) => !lost.has(peer))
  const masked = await asked(staying, async (client, peer) => await client.mask(boxes.get(peer)!, input),
    ({ byteLength }) => byteLength, (peer) => boxBytes(boxes.get(peer)!))
  const survivors = (await timed(cost, 'serverMs', () => aggregator.survivors(masked)))!
  const signed = await asked(survivors, async (client) => await client.confirm(survivors), ({ byteLength }) => byteLength,
    () => survivors.length * PEER_BYTES)
  const confirmations = (await timed(cost, 'serverMs', async () => await aggregator.confirmations(signed)))!
  const revealed = await asked(survivors, async (client) => await client.reveal(confirmations), shareBytes,
    () => confirmations.length * (PEER_BYTES + 64))
  const sum = await timed(cost, 'serverMs', async () => await aggregator.sum(revealed))
  if (sum?.every((value) => value === 0.5 * survivors.length) !== true) throw new Error('the sum is another')
  const { size } = measured
  return { ...cost, sentBytes: cost.sentBytes / size, receivedBytes: cost.receivedBytes / size, clientMs: cost.clientMs / size }
}

const number = (value: number, digits = 0): string => value.toLocaleString('en', { maximumFractionDigits: digits })

console.log(`${number(values)} values, which take ${number(4 * values / 1000)} kB where they are plain`)
console.log('clients  sums  lost  client sends  receives   client takes  server takes')
for (const clients of [10, 100, 1000]) {
  const cohorts = cohortsOf(Array.from({ length: clients }, (_, index) => `peer-${String(index).padStart(4, '0')}`))
  for (const isLossy of [false, true]) {
    // The cohorts are of one size, and what one of them takes all of them take.
    const [peers] = cohorts as [string[]]
    const lost = new Set(isLossy ? peers.slice(0, Math.floor(peers.length / 3)) : [])
    const { sentBytes, receivedBytes, clientMs, serverMs } = await cohort(peers, lost)
    console.log([
      String(clients).padStart(7),
      String(cohorts.length).padStart(4),
      String(lost.size * cohorts.length).padStart(4),
      `${number(sentBytes / 1000)} kB`.padStart(12),
      `${number(receivedBytes / 1000)} kB`.padStart(8),
      `${number(clientMs)} ms`.padStart(13),
      `${number(serverMs * cohorts.length)} ms`.padStart(12)
    ].join('  '))
  }
}
