import { generateKeyPairSync, sign, verify, type KeyObject } from 'node:crypto'
import { Aggregator } from '../../../../src/roles/training/aggregation/secure/aggregator.ts'
import { MIN_CONTRIBUTORS } from '../../../../src/roles/training/aggregation/secure/constants.ts'
import { Contributor } from '../../../../src/roles/training/aggregation/secure/contributor.ts'
import type { Attempt, Signer, Verify } from '../../../../src/roles/training/aggregation/secure/messages.ts'

/** Identities with Ed25519 keys, by name. */
export class Identities {
  readonly #keys = new Map<string, { readonly privateKey: KeyObject, readonly publicKey: KeyObject }>()

  signer (peer: string): Signer {
    const { privateKey } = this.#of(peer)
    return { peer, sign: async (bytes) => new Uint8Array(sign(null, bytes, privateKey)) }
  }

  readonly verify: Verify = async (peer, bytes, signature) => verify(null, bytes, this.#of(peer).publicKey, signature)

  #of (peer: string) {
    const known = this.#keys.get(peer) ?? generateKeyPairSync('ed25519')
    this.#keys.set(peer, known)
    return known
  }
}

/** The steps before which a contributor can be lost. */
export const steps = ['advertise', 'share', 'mask', 'confirm', 'reveal'] as const
export type Step = typeof steps[number]

export function attemptOf (values: number, fields: Partial<Attempt> = {}): Attempt {
  return { federation: 'ab'.repeat(32), round: 3, attempt: 0, values, ...fields }
}

/** Names of peers, in order. */
export function named (count: number): string[] {
  return Array.from({ length: count }, (_, index) => `peer-${String(index).padStart(4, '0')}`)
}

export interface Exchange {
  readonly attempt: Attempt
  readonly inputs: ReadonlyMap<string, Float32Array>
  /** Before which step a peer is lost. */
  readonly lost?: ReadonlyMap<string, Step>
  readonly identities?: Identities
}

/** What a whole exchange came to; undefined where too few were left. */
export interface Outcome {
  readonly sum: Float32Array
  readonly survivors: readonly string[]
}

/** Runs one attempt in memory, with an honest server. */
export async function exchange (
  { attempt, inputs, lost = new Map(), identities = new Identities() }: Exchange
): Promise<Outcome | undefined> {
  const { verify } = identities
  const aggregator = new Aggregator({ attempt, verify, minContributors: MIN_CONTRIBUTORS })
  const contributors = new Map([...inputs.keys()].map((peer) =>
    [peer, new Contributor({ attempt, signer: identities.signer(peer), verify, minContributors: MIN_CONTRIBUTORS })]))
  const asked = async <Reply> (peers: Iterable<string>, step: Step, ask: (contributor: Contributor, peer: string) => Promise<Reply>) => {
    const replies = new Map<string, Reply>()
    for (const peer of peers) {
      const last = lost.get(peer)
      if (last === undefined || steps.indexOf(last) > steps.indexOf(step)) replies.set(peer, await ask(contributors.get(peer)!, peer))
    }
    return replies
  }
  const roster = await aggregator.roster(await asked(contributors.keys(), 'advertise', async (contributor) => await contributor.advertise()))
  if (roster === undefined) return undefined
  const members = roster.map(({ peer }) => peer)
  const boxes = aggregator.shares(await asked(members, 'share', async (contributor) => await contributor.share(roster)))
  if (boxes === undefined) return undefined
  const survivors = aggregator.survivors(await asked(boxes.keys(), 'mask', async (contributor, peer) =>
    await contributor.mask(boxes.get(peer)!, inputs.get(peer)!)))
  if (survivors === undefined) return undefined
  const confirmations = await aggregator.confirmations(await asked(survivors, 'confirm', async (contributor) =>
    await contributor.confirm(survivors)))
  if (confirmations === undefined) return undefined
  const revealed = await asked(confirmations.map(({ peer }) => peer), 'reveal', async (contributor) => await contributor.reveal(confirmations))
  const sum = await aggregator.sum(revealed)
  return sum === undefined ? undefined : { sum, survivors }
}
