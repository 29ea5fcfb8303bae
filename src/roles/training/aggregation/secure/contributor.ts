import { randomBytes } from 'node:crypto'
import { split } from 'shamir-secret-sharing'
import { BOX_BYTES, KEY_BYTES, MAX_CONTRIBUTORS, SHARE_BYTES, SIGNATURE_BYTES, thresholdOf } from './constants.ts'
import { AggregationRefusedError, UnknownContributorError } from './errors.ts'
import { toFixedPoint } from './fixed-point.ts'
import { agree, makeKeyPair, open, privateBytes, seal, type KeyPair } from './key-agreement.ts'
import { applyMask } from './masks.ts'
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
  type Confirmation,
  type RevealedShare,
  type Signer,
  type Verify
} from './messages.ts'

export interface ContributorOptions {
  readonly attempt: Attempt
  readonly signer: Signer
  readonly verify: Verify
  /** Contributors that the sum must have at least. */
  readonly minContributors: number
  /** The peers that may take part beside this one; undefined: every peer. */
  readonly known?: ReadonlySet<string> | undefined
}

/** What a contributor has done last. Each step is taken once, and in this order. */
type Step = 'nothing' | 'advertised' | 'shared' | 'masked' | 'confirmed' | 'revealed' | 'refused'

/**
 * One contributor's part in one attempt at a secure sum: the client of Bonawitz et al. 2017 (Practical Secure Aggregation for
 * Privacy-Preserving Machine Learning, figure 4), with the consistency check against a server that lies. What leaves is keys, sealed
 * shares, the masked contribution, a signature, and for each other contributor one share of one of its two secrets. A request that is out
 * of order, or that would show more than the sum, throws, and everything secret is forgotten: the attempt is over for this contributor.
 */
export class Contributor {
  readonly #o: ContributorOptions
  readonly #sealing = makeKeyPair()
  readonly #masking = makeKeyPair()
  /** What the contributor's own mask follows from. */
  readonly #seed = new Uint8Array(randomBytes(KEY_BYTES))
  #step: Step = 'nothing'
  /** Those who advertised keys, in the order of their ids. */
  #roster: readonly Advertisement[] = []
  #rosterHash: Uint8Array = new Uint8Array(0)
  #keptShare: Uint8Array = new Uint8Array(0)
  #boxes = new Map<string, Uint8Array>()
  #survivors: readonly string[] = []
  readonly #boxKeys = new Map<string, Uint8Array>()

  constructor (options: ContributorOptions) {
    this.#o = options
  }

  /** The other contributors, once the server has named them. */
  get others (): string[] { return this.#roster.map(({ peer }) => peer).filter((peer) => peer !== this.#peer) }

  /** Makes the keys of this attempt known (round 0 of the paper). */
  async advertise (): Promise<Advertisement> {
    return await this.#take('nothing', 'advertised', async () => {
      const keys = { peer: this.#peer, sealingKey: this.#sealing.publicKey, maskingKey: this.#masking.publicKey }
      return { ...keys, signature: await this.#o.signer.sign(advertisedBytes(this.#o.attempt, keys)) }
    })
  }

  /** Shares this contributor's secrets among all who advertised keys (round 1). Checks that each of them is whom it says. */
  async share (roster: readonly Advertisement[]): Promise<Box[]> {
    return await this.#take('advertised', 'shared', async () => {
      await this.#checkRoster(roster)
      this.#roster = roster
      this.#rosterHash = rosterHash(this.#o.attempt, roster)
      const threshold = thresholdOf(roster.length)
      const seeds = await split(this.#seed, roster.length, threshold)
      const keys = await split(privateBytes(this.#masking), roster.length, threshold)
      const shares = roster.map(({ peer }, index) => ({ peer, bytes: joined(seeds[index], keys[index]) }))
      return shares.flatMap(({ peer, bytes }) => {
        if (peer !== this.#peer) return [{ peer, box: seal(this.#boxKey(peer), bytes, boxContext(this.#rosterHash, this.#peer, peer)) }]
        this.#keptShare = bytes
        return []
      })
    })
  }

  /**
   * Masks the contribution, with the boxes of all who shared their secrets (round 2). Throws ContributionRangeError for values that are
   * out of range.
   */
  async mask (boxes: readonly Box[], contribution: Float32Array): Promise<Uint32Array> {
    return await this.#take('shared', 'masked', async () => {
      this.#checkBoxes(boxes)
      if (contribution.length !== this.#o.attempt.values)
        throw new RangeError(`the contribution has ${contribution.length} values, and the sum ${this.#o.attempt.values}`)
      const words = toFixedPoint(contribution)
      this.#boxes = new Map(boxes.map(({ peer, box }) => [peer, box]))
      for (const { peer, maskingKey } of this.#roster) {
        if (this.#boxes.has(peer)) applyMask(words, this.#agree(this.#masking, maskingKey, MASK_PURPOSE), directionOf(this.#peer, peer))
      }
      applyMask(words, this.#seed, 'add')
      return words
    })
  }

  /** Signs who is in the sum (round 3): those whose masked contributions the server says it has. */
  async confirm (survivors: readonly string[]): Promise<Uint8Array> {
    return await this.#take('masked', 'confirmed', async () => {
      const least = this.#least
      if (!isSorted(survivors)) throw new AggregationRefusedError('the list of who is in the sum is not in order, or names a peer twice')
      if (!survivors.includes(this.#peer)) throw new AggregationRefusedError('it is said not to be in the sum that it contributed to')
      const unknown = survivors.find((peer) => peer !== this.#peer && !this.#boxes.has(peer))
      if (unknown !== undefined) throw new AggregationRefusedError(`${unknown} is said to be in the sum, and shared no secrets`)
      if (survivors.length < least) throw new AggregationRefusedError(`${survivors.length} contributors are in the sum, fewer than ${least}`)
      this.#survivors = survivors
      return await this.#o.signer.sign(confirmedBytes(this.#rosterHash, survivors))
    })
  }

  /**
   * Tells a share of one secret of each contributor (round 4), once as many as the threshold have signed the same list: of the seed for
   * those in the sum, and of the masking key for those who were lost. Never both, since the list is fixed and the step is taken once. A
   * box that does not open has no share to tell.
   */
  async reveal (confirmations: readonly Confirmation[]): Promise<RevealedShare[]> {
    return await this.#take('confirmed', 'revealed', async () => {
      await this.#checkConfirmations(confirmations)
      const present = new Set(this.#survivors)
      return [this.#peer, ...this.#boxes.keys()].flatMap((peer) => {
        const shares = peer === this.#peer ? this.#keptShare : this.#opened(peer)
        if (shares === undefined) return []
        return [present.has(peer)
          ? { peer, kind: 'seed' as const, share: shares.slice(0, SHARE_BYTES) }
          : { peer, kind: 'key' as const, share: shares.slice(SHARE_BYTES) }]
      })
    })
  }

  get #peer (): string { return this.#o.signer.peer }

  /** Contributors that the sum has at least. */
  get #least (): number { return Math.max(thresholdOf(this.#roster.length), this.#o.minContributors) }

  async #checkRoster (roster: readonly Advertisement[]): Promise<void> {
    const { attempt, verify, minContributors, known } = this.#o
    if (roster.length < minContributors || roster.length > MAX_CONTRIBUTORS)
      throw new AggregationRefusedError(`${roster.length} contributors take part: it takes ${minContributors} to ${MAX_CONTRIBUTORS}`)
    if (!isSorted(roster.map(({ peer }) => peer)))
      throw new AggregationRefusedError('the list of contributors is not in order, or names a peer twice')
    const own = roster.find(({ peer }) => peer === this.#peer)
    if (own === undefined || !isSame(own.sealingKey, this.#sealing.publicKey) || !isSame(own.maskingKey, this.#masking.publicKey))
      throw new AggregationRefusedError('its own keys of this attempt are not in the list of contributors')
    for (const { peer, sealingKey, maskingKey, signature } of roster) {
      if (peer !== this.#peer && known?.has(peer) === false) throw new UnknownContributorError(peer)
      if (sealingKey.byteLength !== KEY_BYTES || maskingKey.byteLength !== KEY_BYTES || signature.byteLength !== SIGNATURE_BYTES)
        throw new AggregationRefusedError(`the keys of ${peer} have another length than keys have`)
      if (!await verify(peer, advertisedBytes(attempt, { peer, sealingKey, maskingKey }), signature))
        throw new AggregationRefusedError(`the keys of ${peer} are not signed by it for this attempt`)
    }
  }

  #checkBoxes (boxes: readonly Box[]): void {
    const peers = boxes.map(({ peer }) => peer)
    const members = new Set(this.others)
    if (!isSorted(peers)) throw new AggregationRefusedError('the list of shares is not in order, or names a peer twice')
    const unknown = peers.find((peer) => !members.has(peer))
    if (unknown !== undefined) throw new AggregationRefusedError(`there are shares of ${unknown}, which advertised no keys`)
    if (boxes.some(({ box }) => box.byteLength !== BOX_BYTES)) throw new AggregationRefusedError('shares have another length than shares have')
    if (boxes.length + 1 < this.#least)
      throw new AggregationRefusedError(`${boxes.length + 1} contributors shared their secrets, fewer than ${this.#least}`)
  }

  async #checkConfirmations (confirmations: readonly Confirmation[]): Promise<void> {
    const present = new Set(this.#survivors)
    const peers = confirmations.map(({ peer }) => peer)
    if (!isSorted(peers) || peers.some((peer) => !present.has(peer)))
      throw new AggregationRefusedError('the list of signatures is not in order, or has one of a peer that is not in the sum')
    const threshold = thresholdOf(this.#roster.length)
    if (peers.length < threshold)
      throw new AggregationRefusedError(`${peers.length} contributors confirmed who is in the sum, fewer than ${threshold}`)
    const bytes = confirmedBytes(this.#rosterHash, this.#survivors)
    for (const { peer, signature } of confirmations) {
      if (signature.byteLength !== SIGNATURE_BYTES || !await this.#o.verify(peer, bytes, signature))
        throw new AggregationRefusedError(`${peer} did not sign the list of who is in the sum that this client was told`)
    }
  }

  #opened (peer: string): Uint8Array | undefined {
    return open(this.#boxKey(peer), this.#boxes.get(peer) as Uint8Array, boxContext(this.#rosterHash, peer, this.#peer))
  }

  /** The key of the boxes to and from another contributor. */
  #boxKey (peer: string): Uint8Array {
    const known = this.#boxKeys.get(peer)
    if (known !== undefined) return known
    const { sealingKey } = this.#roster.find((entry) => entry.peer === peer) as Advertisement
    const key = this.#agree(this.#sealing, sealingKey, BOX_PURPOSE)
    this.#boxKeys.set(peer, key)
    return key
  }

  #agree (own: KeyPair, publicKey: Uint8Array, purpose: string): Uint8Array {
    try {
      return agree(own, publicKey, purpose)
    } catch (error) {
      throw new AggregationRefusedError('a contributor advertised a key with which every other gives the same', error)
    }
  }

  /** Takes a step that follows another one. Whatever throws ends the attempt for this contributor. */
  async #take<Result> (before: Step, after: Step, work: () => Promise<Result>): Promise<Result> {
    const step = this.#step
    // Another request that comes while this one is worked on finds a step that nothing follows.
    this.#step = 'refused'
    try {
      if (step !== before) throw new AggregationRefusedError(`it is asked for a step out of order, or once more (${after} after ${step})`)
      const result = await work()
      this.#step = after
      if (after === 'revealed') this.#forget()
      return result
    } catch (error) {
      this.#forget()
      throw error
    }
  }

  #forget (): void {
    this.#seed.fill(0)
    this.#keptShare.fill(0)
    this.#boxes.clear()
    for (const key of this.#boxKeys.values()) key.fill(0)
    this.#boxKeys.clear()
  }
}

/** Of a pair of contributors, the one with the smaller id adds their mask, and the other one takes it off. */
export function directionOf (peer: string, other: string): 'add' | 'subtract' {
  return peer < other ? 'add' : 'subtract'
}

/** Whether these ids are in order, each once. */
function isSorted (peers: readonly string[]): boolean {
  return peers.every((peer, index) => index === 0 || (peers[index - 1] as string) < peer)
}

function isSame (a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}

function joined (seed: Uint8Array | undefined, key: Uint8Array | undefined): Uint8Array {
  if (seed === undefined || key === undefined) throw new RangeError('there are fewer shares than contributors')
  return new Uint8Array(Buffer.concat([seed, key]))
}
