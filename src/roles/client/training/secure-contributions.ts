import type { SecurePlace } from '../../secure-messages.ts'
import { Contributor } from '../../training/aggregation/secure/contributor.ts'
import { AggregationRefusedError } from '../../training/aggregation/secure/errors.ts'
import type { SecureReply, SecureRequest, Signer, Verify } from '../../training/aggregation/secure/messages.ts'

export interface SecureContributionsOptions {
  /** The federation's id, in hex. */
  readonly federation: string
  readonly minContributors: number
  readonly signer: Signer
  readonly verify: Verify
  /** The peers that may be in a sum with this one, as the user says; undefined: every peer. */
  readonly known: ReadonlySet<string> | undefined
  /** Notes durably that the server may come to know a sum with what this client offered last. */
  readonly noteReveal: () => Promise<void>
  /** Hears what the user has to be told. */
  readonly notify: (notice: string) => void
}

/** A request for keys that came before there was anything to add. */
export interface EarlyRequest {
  readonly place: SecurePlace
  readonly request: SecureRequest
}

/**
 * A client's part in the secure sums of a run: what it adds to each round, masked anew for each attempt until it reveals shares. Then the
 * contribution is forgotten: the difference of two sums with it, of which one is without another client, would be that client's
 * contribution.
 */
export class SecureContributions {
  readonly #o: SecureContributionsOptions
  #offered: { readonly round: number, readonly values: Float32Array } | undefined
  #current: SecurePlace & { readonly contributor: Contributor } | undefined
  #early: EarlyRequest | undefined
  readonly #seen = new Set<string>()

  constructor (options: SecureContributionsOptions) {
    this.#o = options
  }

  /**
   * Notes what this client adds to a round. It leaves masked, when the server asks for it. Returns a request that came before, as to a
   * client that was cut off and computed the passes again.
   */
  offer (round: number, values: Float32Array): EarlyRequest | undefined {
    this.#offered = { round, values }
    const early = this.#early
    this.#early = undefined
    return early?.place.round === round ? early : undefined
  }

  /** Forgets what was offered, and the keys of the attempt in progress. */
  forget (): void {
    this.#offered = undefined
    this.#current = undefined
  }

  /**
   * Answers a step. Returns undefined for a step of a round or an attempt that this client has no part in. Throws AggregationRefusedError,
   * UnknownContributorError and ContributionRangeError.
   */
  async answer ({ round, attempt }: SecurePlace, request: SecureRequest): Promise<SecureReply | undefined> {
    const offered = this.#offered
    if (offered?.round !== round) {
      if (request.step === 'advertise') this.#early = { place: { round, attempt }, request }
      return undefined
    }
    if (request.step === 'advertise') {
      if (request.values !== offered.values.length)
        throw new AggregationRefusedError(`the sum is of ${request.values} values, and this client contributes ${offered.values.length}`)
      this.#current = { round, attempt, contributor: this.#contributor({ round, attempt }, request.values) }
    }
    const current = this.#current
    if (current?.round !== round || current.attempt !== attempt) return undefined
    return await this.#step(current.contributor, request, offered.values)
  }

  async #step (contributor: Contributor, request: SecureRequest, values: Float32Array): Promise<SecureReply> {
    switch (request.step) {
      case 'advertise':
        return { step: 'advertise', advertisement: await contributor.advertise() }
      case 'share': {
        const boxes = await contributor.share(request.roster)
        this.#tellNew(contributor.others)
        return { step: 'share', boxes }
      }
      case 'mask':
        return { step: 'mask', words: await contributor.mask(request.boxes, values) }
      case 'confirm':
        return { step: 'confirm', signature: await contributor.confirm(request.survivors) }
      case 'reveal': {
        const shares = await contributor.reveal(request.confirmations)
        this.#offered = undefined
        await this.#o.noteReveal()
        return { step: 'reveal', shares }
      }
    }
  }

  #contributor (place: SecurePlace, values: number): Contributor {
    const { federation, minContributors, signer, verify, known } = this.#o
    return new Contributor({ attempt: { federation, ...place, values }, signer, verify, minContributors, known })
  }

  /** Tells the user of peers that were in no sum of this run before, unless the user named them. */
  #tellNew (peers: readonly string[]): void {
    const found = peers.filter((peer) => !this.#seen.has(peer))
    for (const peer of found) this.#seen.add(peer)
    if (found.length === 0 || this.#o.known !== undefined) return
    const names = found.slice(0, MAX_NAMED_PEERS).join(', ') + (found.length > MAX_NAMED_PEERS ? ` and ${found.length - MAX_NAMED_PEERS} more` : '')
    this.#o.notify(`in the secure sum with ${names}; whether these are people's peers only --contributors can say`)
  }
}

/** Peers that one notice names. */
const MAX_NAMED_PEERS = 8
