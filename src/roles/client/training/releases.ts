import type { Boundary, Release } from '../../../model/privacy/boundary.ts'
import type { AnyTensor, Deferred, Device, DeviceTensor } from '../../../model/runtime/device.ts'
import type { ClientProtection } from '../../charter-settings.ts'
import type { ReleaseLedger, ReleaseNote } from '../release-ledger.ts'
import type { Direction, ReleaseSecret } from '../release-secret.ts'

export interface ReleasesComponents {
  readonly device: Device
  readonly boundary: Boundary
  readonly secret: ReleaseSecret
  readonly ledger: Pick<ReleaseLedger, 'record'>
}

export interface ReleasesSettings {
  readonly protection: ClientProtection
  /** Names the run that the releases are of, for the ledger. */
  readonly run: string
}

/** What the ledger notes of a batch. */
export type BatchNote = Pick<ReleaseNote, 'epoch' | 'index' | 'rows' | 'sequences' | 'recordRows'>

/**
 * What a client released in its round. A server that has a pass computed again, by a begin, a reconnect or other hidden states, gets what
 * it got before: the noise of a pass in a round is drawn once, whatever happens.
 *
 * While the client runs, releases are kept as they left, because a server can answer the same hidden states with slightly different
 * ones each time, and each of the gradients with noise of its own would show their mean. After a restart of the client, which no server
 * can bring about, the rows are computed again and leave as the same bytes, since their noise follows from the secret and the rows.
 */
export class Releases {
  readonly #c: ReleasesComponents
  readonly #protections: ClientProtection
  readonly #run: string
  #round = -1
  /** Of the round, by pass and direction. */
  readonly #kept = new Map<string, Release>()

  constructor (components: ReleasesComponents, { protection, run }: ReleasesSettings) {
    this.#c = components
    this.#protections = protection
    this.#run = run
  }

  /** Forgets the releases of other rounds than this one: nobody may ask for them again. */
  enter (round: number): void {
    if (round === this.#round) return
    this.#round = round
    this.#kept.clear()
  }

  /**
   * Returns what leaves of rows float32 [rows, hidden] in a pass of the round: what left before, where something did. It is in the ledger
   * then.
   */
  async protect (direction: Direction, pass: number, rows: DeviceTensor, note: BatchNote): Promise<Release> {
    const release = await this.#protected(direction, pass, rows)
    const { clip, noise } = this.#protections[direction]
    await this.#c.ledger.record({ ...note, purpose: 'train', kind: direction, work: this.#run, clip, noise }, release.tensors)
    return release
  }

  async #protected (direction: Direction, pass: number, rows: DeviceTensor): Promise<Release> {
    const protection = this.#protections[direction]
    const { device, boundary, secret } = this.#c
    // Without noise there is nothing that repetitions could take away, and what is computed anew is exact.
    if (protection.noise === 0) return await boundary.protect(rows, protection)
    const name = `${direction}/${pass}`
    const kept = this.#kept.get(name)
    if (kept !== undefined) return kept
    const key = secret.noiseKey({ direction, protection, clean: await device.download(rows) })
    const release = await boundary.protect(rows, protection, { key })
    this.#kept.set(name, release)
    return release
  }

  /** Whether the residual stream stays here. */
  get keepsStream (): boolean { return this.#protections.keepsStream }

  /** Whether rows that leave are clipped, so that `backward` needs them. */
  clips (direction: Direction): boolean {
    return this.#protections[direction].clip !== null
  }

  /**
   * Takes a gradient [rows, hidden] of what left back to the rows as they were. `kept` is the part of it that the residual stream has,
   * where that stays here. The caller frees the result, which is another tensor than the arguments. Throws RangeError where nothing is
   * clipped.
   */
  async backward (
    direction: Direction,
    rows: DeviceTensor,
    gradient: AnyTensor | Deferred,
    kept: DeviceTensor | undefined
  ): Promise<DeviceTensor> {
    return await this.#c.boundary.clipBackward(rows, gradient, this.#protections[direction], kept)
  }
}
