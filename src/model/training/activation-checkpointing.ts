import type { ResidualPolicy } from '../layers/block-programs.ts'

export const residualSettings = ['saved', 'recomputed', 'auto'] as const

/** A policy, or the better one by measurement. */
export type ResidualSetting = typeof residualSettings[number]

/** What one training pass of a span took. */
export interface PassCost {
  /** Rows, times the blocks that they passed. */
  readonly rows: number
  /** Held from the way there to the way back. */
  readonly bytes: number
  /** Of the way there and back. */
  readonly ms: number
}

/** What passes took, a row and block: the fastest, and the largest. */
export interface RowCost {
  readonly bytesPerRow: number
  readonly msPerRow: number
}

export interface ResidualReport {
  readonly setting: ResidualSetting
  /** What passes do now; undefined while it is measured. */
  readonly policy: ResidualPolicy | undefined
  readonly saved: RowCost | undefined
  readonly recomputed: RowCost | undefined
}

/** The first pass of each policy compiles and takes memory for the first time: it is not measured. */
const WARM_UPS = 1
/** Other work disturbs single passes; the fastest of a few counts. */
const MEASURED = 3

const policies = ['recomputed', 'saved'] as const

/**
 * Decides for each training pass of a span whether it saves residuals or recomputes them. With `auto` the first passes take turns; from
 * then
 * on the faster policy is kept, and saving only where its residuals stay within the limit. Both compute the same.
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

  /** The policies that passes may use. */
  get candidates (): readonly ResidualPolicy[] {
    return this.setting === 'auto' ? policies : [this.setting]
  }

  /** For the next pass, of so many rows through so many blocks together. */
  next (rows: number): ResidualPolicy {
    const policy = this.#decide(rows)
    this.#begun[policy]++
    return policy
  }

  /** Takes note of a pass that went there and back. */
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
