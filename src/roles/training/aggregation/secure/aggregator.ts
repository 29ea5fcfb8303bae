import { setImmediate as turn } from 'node:timers/promises'
import { combine } from 'shamir-secret-sharing'
import { BOX_BYTES, KEY_BYTES, SHARE_BYTES, SIGNATURE_BYTES, thresholdOf } from './constants.ts'
import { directionOf } from './contributor.ts'
import { add, fromFixedPoint, isWithinRange } from './fixed-point.ts'
import { agree, isUsableKey, keyPairOf } from './key-agreement.ts'
import { applyMask } from './masks.ts'
import {
  advertisedBytes,
  confirmedBytes,
  MASK_PURPOSE,
  rosterHash,
  type Advertisement,
  type Attempt,
  type Box,
  type Confirmation,
  type RevealedShare,
  type Verify
} from './messages.ts'

export interface AggregatorOptions {
  readonly attempt: Attempt
  readonly verify: Verify
  readonly minContributors: number
}

/** Replies by peer. */
export type Replies<Reply> = ReadonlyMap<string, Reply>

/**
 * The server's part in one attempt at a secure sum. Each step takes the replies that came and returns what those who replied are told, or
 * undefined where too few are left: then the attempt has failed, and nothing was unmasked. A reply that does not fit is taken for none.
 */
export class Aggregator {
  readonly #o: AggregatorOptions
  #roster: readonly Advertisement[] = []
  #rosterHash: Uint8Array = new Uint8Array(0)
  #sharing: readonly string[] = []
  #masked: Replies<Uint32Array> = new Map()
  #survivors: readonly string[] = []

  constructor (options: AggregatorOptions) {
    this.#o = options
  }

  /** Takes the advertised keys. Returns the list that all who advertised are told. */
  async roster (replies: Replies<Advertisement>): Promise<readonly Advertisement[] | undefined> {
    const { attempt, verify, minContributors } = this.#o
    const signed: Advertisement[] = []
    for (const [peer, advertisement] of inOrder(replies)) {
      const { sealingKey, maskingKey, signature } = advertisement
      const fits = advertisement.peer === peer && isUsableKey(sealingKey) && isUsableKey(maskingKey)
      if (fits && await verify(peer, advertisedBytes(attempt, advertisement), signature)) signed.push(advertisement)
    }
    this.#roster = signed
    this.#rosterHash = rosterHash(attempt, signed)
    return signed.length < minContributors ? undefined : signed
  }

  /** Takes the sealed shares. Returns the boxes for each who sent some, with the peers that they are from. */
  shares (replies: Replies<readonly Box[]>): ReadonlyMap<string, Box[]> | undefined {
    const peers = new Set(this.#roster.map(({ peer }) => peer))
    const whole = inOrder(replies).filter(([peer, boxes]) => {
      const others = new Set(boxes.map((entry) => entry.peer))
      return peers.has(peer) && boxes.length === peers.size - 1 && others.size === boxes.length &&
        boxes.every((entry) => entry.peer !== peer && peers.has(entry.peer) && entry.box.byteLength === BOX_BYTES)
    })
    this.#sharing = whole.map(([peer]) => peer)
    if (whole.length < this.#least) return undefined
    return new Map(this.#sharing.map((to) => [to, whole.flatMap(([from, boxes]) => {
      const box = boxes.find(({ peer }) => peer === to)?.box
      return box === undefined ? [] : [{ peer: from, box }]
    })]))
  }

  /** Takes the masked contributions. Returns who is in the sum, in order. */
  survivors (replies: Replies<Uint32Array>): readonly string[] | undefined {
    const sharing = new Set(this.#sharing)
    this.#masked = new Map(inOrder(replies).filter(([peer, words]) => sharing.has(peer) && words.length === 2 * this.#o.attempt.values))
    this.#survivors = [...this.#masked.keys()]
    return this.#survivors.length < this.#least ? undefined : this.#survivors
  }

  /** Takes the signatures of that list. Returns them for all who signed. */
  async confirmations (replies: Replies<Uint8Array>): Promise<readonly Confirmation[] | undefined> {
    const bytes = confirmedBytes(this.#rosterHash, this.#survivors)
    const confirmations: Confirmation[] = []
    for (const [peer, signature] of inOrder(replies)) {
      if (!this.#masked.has(peer) || signature.byteLength !== SIGNATURE_BYTES) continue
      if (await this.#o.verify(peer, bytes, signature)) confirmations.push({ peer, signature })
    }
    return confirmations.length < this.#threshold ? undefined : confirmations
  }

  /**
   * Takes the shares that were revealed and the masks off. Returns the sum; undefined where there are too few shares, or where some
   * contributor's shares or masks are not what they ought to be, so that the result is no sum of contributions.
   */
  async sum (replies: Replies<readonly RevealedShare[]>): Promise<Float32Array | undefined> {
    const sum = new Uint32Array(2 * this.#o.attempt.values)
    for (const words of this.#masked.values()) add(sum, words)
    for (const peer of this.#survivors) {
      const seed = await this.#secretOf(peer, 'seed', replies)
      if (seed === undefined) return undefined
      applyMask(sum, seed, 'subtract')
      await turn() // masks of a long vector take their time, and other clients are served meanwhile
    }
    for (const { peer, maskingKey } of this.#roster) {
      if (!this.#sharing.includes(peer) || this.#masked.has(peer)) continue
      const key = await this.#secretOf(peer, 'key', replies)
      if (key === undefined) return undefined
      const pair = keyPairOf(key)
      if (Buffer.compare(pair.publicKey, maskingKey) !== 0) return undefined
      for (const survivor of this.#roster) {
        if (!this.#masked.has(survivor.peer)) continue
        // The mask that the lost contributor would have brought is what is missing.
        applyMask(sum, agree(pair, survivor.maskingKey, MASK_PURPOSE), directionOf(peer, survivor.peer))
        await turn()
      }
    }
    const values = fromFixedPoint(sum)
    return isWithinRange(values, this.#survivors.length) ? values : undefined
  }

  get #threshold (): number { return thresholdOf(this.#roster.length) }

  /** Contributors that the sum has at least. */
  get #least (): number { return Math.max(this.#threshold, this.#o.minContributors) }

  async #secretOf (peer: string, kind: RevealedShare['kind'], replies: Replies<readonly RevealedShare[]>): Promise<Uint8Array | undefined> {
    const threshold = this.#threshold
    const shares = new Map<number, Uint8Array>()
    for (const revealed of replies.values()) {
      const found = revealed.find((entry) => entry.peer === peer)
      const place = found?.share[KEY_BYTES]
      if (found === undefined || found.kind !== kind || found.share.byteLength !== SHARE_BYTES) continue
      if (place !== undefined && place !== 0 && shares.size < threshold) shares.set(place, new Uint8Array(found.share))
    }
    return shares.size < threshold ? undefined : await combine([...shares.values()])
  }
}

function inOrder<Reply> (replies: Replies<Reply>): Array<readonly [string, Reply]> {
  return [...replies].sort(([a], [b]) => a < b ? -1 : 1)
}
