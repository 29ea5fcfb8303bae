import type { Charter } from '../protocols/charter/schema.ts'

/** What is known of an adapter tensor before it exists. */
export interface AdapterShape {
  /** Such as `3.self_attn.q_proj.lora_A`: the block's number comes first. */
  readonly name: string
  readonly shape: readonly number[]
}

/** The block that an adapter tensor belongs to. */
export function blockOf (adapterName: string): number {
  return Number.parseInt(adapterName, 10)
}

/** Whether holders average their adapters at the end of this round. */
export function isAveragingRound (ends: Charter['ends'], round: number): boolean {
  return ends.mode === 'average' && (round + 1) % ends.every === 0
}

/** The last averaging round before this one, or -1. */
export function lastAveragingRound (ends: Charter['ends'], round: number): number {
  return ends.mode === 'average' ? Math.floor(round / ends.every) * ends.every - 1 : -1
}
