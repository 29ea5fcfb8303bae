import fc from 'fast-check'
import { combine, split } from 'shamir-secret-sharing'
import { expect, it } from 'vitest'
import { Aggregator } from '../../../../src/roles/training/aggregation/secure/aggregator.ts'
import { BOX_BYTES, MAX_CONTRIBUTORS, MIN_CONTRIBUTORS, SIGNATURE_BYTES } from '../../../../src/roles/training/aggregation/secure/constants.ts'
import { Contributor } from '../../../../src/roles/training/aggregation/secure/contributor.ts'
import { subtract, toFixedPoint } from '../../../../src/roles/training/aggregation/secure/fixed-point.ts'
import { agree, makeKeyPair, open, seal } from '../../../../src/roles/training/aggregation/secure/key-agreement.ts'
import { applyMask } from '../../../../src/roles/training/aggregation/secure/masks.ts'
import {
  advertisedBytes,
  BOX_PURPOSE,
  boxContext,
  confirmedBytes,
  MASK_PURPOSE,
  rosterHash,
  type Advertisement,
  type Attempt,
  type Box,
  type Confirmation
} from '../../../../src/roles/training/aggregation/secure/messages.ts'
import { attemptOf, Identities, named } from './exchange.ts'

const refused = expect.objectContaining({ code: 'E_AGGREGATION_REFUSED' }) as unknown
const minContributors = MIN_CONTRIBUTORS

interface Group {
  readonly identities: Identities
  readonly attempt: Attempt
  readonly contributors: ReadonlyMap<string, Contributor>
  readonly roster: readonly Advertisement[]
}

function contributor (identities: Identities, peer: string, attempt: Attempt, known?: ReadonlySet<string>): Contributor {
  return new Contributor({ attempt, signer: identities.signer(peer), verify: identities.verify, minContributors, known })
}

/** Contributors that have advertised. */
async function advertised (count: number, values = 2): Promise<Group> {
  const identities = new Identities()
  const attempt = attemptOf(values)
  const contributors = new Map(named(count).map((peer) => [peer, contributor(identities, peer, attempt)]))
  const roster = await Promise.all([...contributors.values()].map(async (each) => await each.advertise()))
  return { identities, attempt, contributors, roster }
}

/** The boxes for one contributor, of what all of them sent. */
function boxesFor (to: string, sent: ReadonlyMap<string, readonly Box[]>): Box[] {
  return [...sent].flatMap(([from, boxes]) => boxes.filter(({ peer }) => peer === to).map(({ box }) => ({ peer: from, box })))
}

async function shared ({ contributors, roster }: Group): Promise<Map<string, readonly Box[]>> {
  return new Map(await Promise.all([...contributors].map(async ([peer, each]) => [peer, await each.share(roster)] as const)))
}

async function masked (group: Group): Promise<Map<string, Uint32Array>> {
  const sent = await shared(group)
  const input = new Float32Array(group.attempt.values)
  return new Map(await Promise.all([...group.contributors].map(async ([peer, each]) =>
    [peer, await each.mask(boxesFor(peer, sent), input)] as const)))
}

async function confirmedBy (group: Group, peers: readonly string[], survivors: readonly string[]): Promise<Confirmation[]> {
  return await Promise.all(peers.map(async (peer) => ({ peer, signature: await group.contributors.get(peer)!.confirm(survivors) })))
}

it('gives a server that tells contributors different things about who was lost no shares at all', async () => {
  const peers = named(7)
  const victim = peers[4]!
  const without = peers.filter((peer) => peer !== victim)
  // However it divides them, no more than one of the two lists can be signed by two thirds.
  for (const told of [2, 3, 4]) {
    const group = await advertised(peers.length)
    await masked(group)
    const [some, others] = [without.slice(0, told), without.slice(told)]
    const [all, fewer] = [await confirmedBy(group, [...some, victim].sort(), peers), await confirmedBy(group, others, without)]
    const revealing = async (names: readonly string[], list: readonly Confirmation[]): Promise<boolean[]> =>
      await Promise.all(names.map(async (name) => await group.contributors.get(name)!.reveal(list).then(() => true, () => false)))
    const seeds = await revealing(some, all)
    const keys = await revealing(others, fewer)
    expect([seeds.includes(true), keys.includes(true)]).not.toEqual([true, true])
  }
})

it('lets a contributor tell one share of each other, and once', async () => {
  const group = await advertised(5)
  const peers = named(5)
  await masked(group)
  const survivors = peers.slice(0, 4)
  const list = await confirmedBy(group, survivors, survivors)
  const first = group.contributors.get(peers[0]!)!
  const told = await first.reveal(list)
  expect(told.map(({ peer, kind }) => [peer, kind]).sort()).toEqual(peers.map((peer) => [peer, peer === peers[4] ? 'key' : 'seed']))
  await expect(first.reveal(list)).rejects.toEqual(refused)
  await expect(first.confirm(survivors)).rejects.toEqual(refused)
  // A contributor that is said to be lost is not made to confirm it.
  await expect(group.contributors.get(peers[4]!)!.confirm(survivors)).rejects.toEqual(refused)
})

it('refuses signatures of another list, of others, twice the same, or too few', async () => {
  const peers = named(6)
  for (const change of [
    (list: Confirmation[]) => list.slice(0, 3),
    (list: Confirmation[]) => [list[0]!, list[0]!, list[1]!, list[2]!],
    (list: Confirmation[]) => list.map(({ peer }) => ({ peer, signature: list[0]!.signature })),
    (list: Confirmation[]) => list.map((each) => ({ ...each, signature: new Uint8Array(SIGNATURE_BYTES) })),
    (list: Confirmation[]) => [...list.slice(1), { peer: 'somebody', signature: list[0]!.signature }]
  ]) {
    const group = await advertised(peers.length)
    await masked(group)
    const list = await confirmedBy(group, peers, peers)
    await expect(group.contributors.get(peers[0]!)!.reveal(change(list))).rejects.toEqual(refused)
  }
})

it('finds members that the server invented where the user named whom to sum with', async () => {
  const identities = new Identities()
  const attempt = attemptOf(1)
  const peers = named(4)
  const own = contributor(identities, peers[0]!, attempt, new Set(peers.slice(0, 3)))
  const all = [own, ...peers.slice(1).map((peer) => contributor(identities, peer, attempt))]
  const roster = await Promise.all(all.map(async (each) => await each.advertise()))
  await expect(own.share(roster)).rejects.toMatchObject({ code: 'E_UNKNOWN_CONTRIBUTOR', message: expect.stringContaining(peers[3]!) as unknown })
})

it('refuses keys that their peer did not sign, for this federation, round and attempt', async () => {
  const peers = named(4)
  for (const stale of [{ round: 2 }, { attempt: 1 }, { federation: 'cd'.repeat(32) }, { values: 5 }]) {
    const group = await advertised(peers.length)
    const replayed = await contributor(group.identities, peers[2]!, attemptOf(2, stale)).advertise()
    const roster = group.roster.map((each) => each.peer === replayed.peer ? replayed : each)
    await expect(group.contributors.get(peers[0]!)!.share(roster)).rejects.toEqual(refused)
    // An honest server leaves such a peer out.
    const aggregator = new Aggregator({ attempt: group.attempt, verify: group.identities.verify, minContributors })
    expect((await aggregator.roster(new Map(roster.map((each) => [each.peer, each]))))?.map(({ peer }) => peer))
      .toEqual(peers.filter((peer) => peer !== replayed.peer))
  }
})

it('refuses lists of contributors that hide it, name a peer twice, or are too short or too long', async () => {
  const names = named(MAX_CONTRIBUTORS + 1)
  for (const [count, change] of [
    [4, (roster: Advertisement[]) => roster.slice(1)],
    [4, (roster: Advertisement[]) => [...roster, roster.at(-1)!]],
    [4, (roster: Advertisement[]) => [...roster].reverse()],
    [4, (roster: Advertisement[]) => roster.slice(0, 2)],
    [names.length, (roster: Advertisement[]) => roster]
  ] as const) {
    const group = await advertised(count)
    await expect(group.contributors.get(names[0]!)!.share(change([...group.roster]))).rejects.toEqual(refused)
  }
  const group = await advertised(4)
  const replaced = await contributor(group.identities, names[0]!, group.attempt).advertise()
  await expect(group.contributors.get(names[0]!)!.share([replaced, ...group.roster.slice(1)])).rejects.toEqual(refused)
})

it('refuses steps out of order, and every step after what it refused', async () => {
  const group = await advertised(3)
  const one = group.contributors.get('peer-0000')!
  await expect(one.mask([], new Float32Array(2))).rejects.toEqual(refused)
  await expect(one.share(group.roster)).rejects.toEqual(refused)
  await expect(one.advertise()).rejects.toEqual(refused)
})

it('answers whatever a server may send with nothing but a refusal', async () => {
  const bytes = fc.uint8Array({ maxLength: 110 })
  const peer = fc.constantFrom(...named(4), 'nobody', '')
  const boxes = fc.array(fc.record({ peer, box: bytes }), { maxLength: 6 })
  await fc.assert(fc.asyncProperty(
    fc.array(fc.record({ peer, sealingKey: bytes, maskingKey: bytes, signature: bytes }), { maxLength: 6 }),
    boxes,
    fc.array(peer, { maxLength: 6 }),
    fc.array(fc.record({ peer, signature: bytes }), { maxLength: 6 }),
    async (roster, some, survivors, confirmations) => {
      const group = await advertised(4, 1)
      const [first, second, third, fourth] = [...group.contributors.values()] as [Contributor, Contributor, Contributor, Contributor]
      await expect(first.share(roster)).rejects.toEqual(refused)
      for (const each of [second, third, fourth]) await each.share(group.roster)
      const strange = some.map((each, index) => ({ ...each, peer: named(4)[index % 4]! }))
      await expect(second.mask(strange, Float32Array.of(1))).rejects.toEqual(refused)
      const junk = named(4).map((name) => ({ peer: name, box: new Uint8Array(BOX_BYTES) }))
      await third.mask(junk.filter((each) => each.peer !== 'peer-0002'), Float32Array.of(1))
      await fourth.mask(junk.filter((each) => each.peer !== 'peer-0003'), Float32Array.of(1))
      fc.pre(!(survivors.length >= 3 && survivors.includes('peer-0002')))
      await expect(third.confirm(survivors)).rejects.toEqual(refused)
      await fourth.confirm(named(4))
      await expect(fourth.reveal(confirmations)).rejects.toEqual(refused)
    }
  ), { numRuns: 15 })
})

it('takes no values that are not numbers, or too large', async () => {
  for (const value of [NaN, Infinity, 1e9]) {
    const group = await advertised(3, 1)
    const sent = await shared(group)
    await expect(group.contributors.get('peer-0001')!.mask(boxesFor('peer-0001', sent), Float32Array.of(value)))
      .rejects.toMatchObject({ code: 'E_CONTRIBUTION_RANGE' })
  }
})

it('has a share of a secret fit every secret, to whoever has one share less than it takes', async () => {
  const shares = await split(Uint8Array.of(77), 9, 6)
  const [last, ...others] = shares.slice(0, 6)
  const secrets = await Promise.all(Array.from({ length: 256 }, async (_, guess) =>
    (await combine([Uint8Array.of(guess, last![1]!), ...others]))[0]))
  // Each of the 256 secrets belongs to one value of the share that is missing: the shares at hand say nothing.
  expect(new Set(secrets).size).toBe(256)
})

/** A contributor that does as it should and tells the server everything that it knows. */
class Colluder {
  readonly sealing = makeKeyPair()
  readonly masking = makeKeyPair()
  readonly #identities: Identities
  readonly #peer: string

  constructor (identities: Identities, peer: string) {
    this.#identities = identities
    this.#peer = peer
  }

  async advertise (attempt: Attempt): Promise<Advertisement> {
    const keys = { peer: this.#peer, sealingKey: this.sealing.publicKey, maskingKey: this.masking.publicKey }
    return { ...keys, signature: await this.#identities.signer(this.#peer).sign(advertisedBytes(attempt, keys)) }
  }

  /** Any bytes will do as shares of its own secrets. */
  share (attempt: Attempt, roster: readonly Advertisement[]): Box[] {
    return roster.filter(({ peer }) => peer !== this.#peer).map(({ peer, sealingKey }) => ({
      peer,
      box: seal(agree(this.sealing, sealingKey, BOX_PURPOSE), new Uint8Array(66), boxContext(rosterHash(attempt, roster), this.#peer, peer))
    }))
  }

  opened (attempt: Attempt, roster: readonly Advertisement[], { peer, box }: Box): Uint8Array | undefined {
    const { sealingKey } = roster.find((entry) => entry.peer === peer)!
    return open(agree(this.sealing, sealingKey, BOX_PURPOSE), box, boxContext(rosterHash(attempt, roster), peer, this.#peer))
  }
}

/** Chi-squared of the values of all bytes, with 255 degrees of freedom: 256 is expected, and above 400 one case in 10^8. */
function chiSquared (words: Uint32Array): number {
  const bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength)
  const counts = new Float64Array(256)
  for (const byte of bytes) counts[byte]!++
  const expected = bytes.length / 256
  return counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
}

it.each([0, 1, -30_000])('shows a server with one contributor less than the threshold noise and the sum of the others alone (input %s)', async (input) => {
  const values = 8192
  const attempt = attemptOf(values)
  const identities = new Identities()
  const peers = named(4)
  const [honest, corrupt] = [peers.slice(0, 2), peers.slice(2)]
  const contributors = new Map(honest.map((peer) => [peer, contributor(identities, peer, attempt)]))
  const colluders = new Map(corrupt.map((peer) => [peer, new Colluder(identities, peer)]))
  const roster = await Promise.all([
    ...[...contributors.values()].map(async (each) => await each.advertise()),
    ...[...colluders.values()].map(async (each) => await each.advertise(attempt))
  ])
  const sent = new Map<string, readonly Box[]>()
  for (const [peer, each] of contributors) sent.set(peer, await each.share(roster))
  for (const [peer, each] of colluders) sent.set(peer, each.share(attempt, roster))
  const inputs = [input, -input / 2]
  const left = new Map<string, Uint32Array>()
  for (const [index, peer] of honest.entries()) {
    left.set(peer, await contributors.get(peer)!.mask(boxesFor(peer, sent), new Float32Array(values).fill(inputs[index]!)))
  }
  // What the colluders' keys take off, and what their two shares and those that honest contributors reveal give of the seeds.
  const known = new Map<string, Uint8Array[]>(honest.map((peer) => [peer, corrupt.map((name) => {
    const box = boxesFor(name, sent).find((entry) => entry.peer === peer)!
    return colluders.get(name)!.opened(attempt, roster, box)!.slice(0, 33)
  })]))
  const confirmations: Confirmation[] = []
  for (const peer of honest) confirmations.push({ peer, signature: await contributors.get(peer)!.confirm(peers) })
  for (const peer of corrupt)
    confirmations.push({ peer, signature: await identities.signer(peer).sign(confirmedBytes(rosterHash(attempt, roster), peers)) })
  for (const peer of honest) {
    for (const { peer: of, share } of await contributors.get(peer)!.reveal(confirmations)) known.get(of)?.push(share)
  }
  for (const [peer, words] of left) {
    for (const name of corrupt) {
      const { maskingKey } = roster.find((entry) => entry.peer === peer)!
      applyMask(words, agree(colluders.get(name)!.masking, maskingKey, MASK_PURPOSE), peer < name ? 'subtract' : 'add')
    }
    applyMask(words, await combine(known.get(peer)!.slice(0, 3)), 'subtract')
    // The mask of the two honest contributors is still on it.
    expect(chiSquared(words)).toBeLessThan(400)
  }
  const [one, other] = honest.map((peer) => left.get(peer)!) as [Uint32Array, Uint32Array]
  const sum = toFixedPoint(new Float32Array(values).fill(inputs[0]! + inputs[1]!))
  subtract(sum, one)
  expect(sum).toEqual(other)
})
