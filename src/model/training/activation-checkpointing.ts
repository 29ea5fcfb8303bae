import type { ResidualPolicy } from '../layers/block-programs.ts'

export const residualSettings = ['saved', 'recomputed', 'auto'] as const

/** A policy, or `auto`: the better one by measurement. */
export type ResidualSetting = typeof residualSettings[number]

/** The cost of one forward and backward pass of a span. */
export interface PassCost {
  /** Rows, times the blocks that computed them. */
  readonly rows: number
  /** Bytes of activations held from the forward to the backward pass. */
  readonly bytes: number
  /** Time of both passes together. */
  readonly ms: number
}

/** The cost of a row in a block: the time of the fastest pass, and the bytes of the largest. */
export interface RowCost {
  readonly bytesPerRow: number
  readonly msPerRow: number
}

export interface ResidualReport {
  readonly setting: ResidualSetting
  /** The policy that passes use now; undefined while both are measured. */
  readonly policy: ResidualPolicy | undefined
  readonly saved: RowCost | undefined
  readonly recomputed: RowCost | undefined
}

/** Passes of each policy that are not measured: the first one compiles, and takes memory for the first time. */
const WARM_UPS = 1
/** Passes of each policy that are measured, of which the fastest counts: other work disturbs single passes. */
const MEASURED = 3

const policies = ['recomputed', 'saved'] as const

/**
 * Decides for each pass of a span whether it saves activations or computes them again. With `auto` the first passes take turns. From then
 * on the faster policy is used, and `saved` only where its activations stay within the limit. Both policies compute the same.
 */
export class ResidualChoice {
  readonly setting: ResidualSetting
  readonly #limitBytes: number
  readonly #begun: Record<ResidualPolicy, number> = { saved: 0, recomputed: 0 }
  readonly #ended: Record<ResidualPolicy, number> = { saved: 0, recomputed: 0 }
  readonly #costs: Partial<Record<ResidualPolicy, RowCost>> = {}

  constructor (setting: ResidualSetting, limitBytes = Infinity) {
    this.setting = setting
    this.#limitBytes = limitBytes
  }

  /** Returns the policies that passes may use. */
  get candidates (): readonly ResidualPolicy[] {
    return this.setting === 'auto' ? policies : [this.setting]
  }

  /** Chooses for the next pass. `rows` is the number of its rows, times the blocks that compute them. */
  next (rows: number): ResidualPolicy {
    const policy = this.#decide(rows)
    this.#begun[policy]++
    return policy
  }

  /** Records the cost of a pass whose backward pass has ended. */
  record (policy: ResidualPolicy, { rows, bytes, ms }: PassCost): void {
    this.#ended[policy]++
    const { bytesPerRow = 0, msPerRow = Infinity } = this.#costs[policy] ?? {}
    const isWarm = this.#ended[policy] > WARM_UPS
    this.#costs[policy] = { bytesPerRow: Math.max(bytesPerRow, bytes / rows), msPerRow: isWarm ? Math.min(msPerRow, ms / rows) : msPerRow }
  }

  get report (): ResidualReport {
    const { setting } = this
    const isMeasured = setting !== 'auto' || policies.every((policy) => this.#ended[policy] >= WARM_UPS + MEASURED)
    return { setting, policy: isMeasured ? this.#decide(1) : undefined, saved: this.#told('saved'), recomputed: this.#told('recomputed') }
  }

  #decide (rows: number): ResidualPolicy {
    if (this.setting !== 'auto') return this.setting
    if (this.#savedBytes(rows) > this.#limitBytes) return 'recomputed'
    const untried = policies.filter((policy) => this.#begun[policy] < WARM_UPS + MEASURED)
    if (untried.length > 0) return untried.reduce((least, policy) => this.#begun[policy] < this.#begun[least] ? policy : least)
    return (this.#costs.saved?.msPerRow ?? Infinity) <= (this.#costs.recomputed?.msPerRow ?? Infinity) ? 'saved' : 'recomputed'
  }

  #savedBytes (rows: number): number {
    return (this.#costs.saved?.bytesPerRow ?? 0) * rows
  }

  #told (policy: ResidualPolicy): RowCost | undefined {
    const cost = this.#costs[policy]
    return cost === undefined || cost.msPerRow === Infinity ? undefined : cost
  }
}
