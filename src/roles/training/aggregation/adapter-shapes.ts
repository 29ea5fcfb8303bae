import type { Charter } from '../../../protocols/charter/schema.ts'

/** What is known of an adapter tensor before it exists. */
export interface AdapterShape {
  /** Such as `3.self_attn.q_proj.lora_A`, or a trained weight's name in the checkpoint. */
  readonly name: string
  readonly shape: readonly number[]
}

/** The block that a trained tensor belongs to: the first number in its name. */
export function blockOf (name: string): number {
  return Number(/(?:^|\.)(\d+)\./.exec(name)?.[1])
}

/** Whether holders average their adapters at the end of this round. */
export function isAveragingRound (ends: Charter['ends'], round: number): boolean {
  return ends.mode === 'average' && (round + 1) % ends.every === 0
}

/**
 * Whether clients tell the norm of their gradients, so that all that is stepped in a round is clipped by one norm. With shared ends it
 * is so without: the server has the gradients themselves.
 */
export function tellsGradientNorm ({ ends, training: { maxGradientNorm, gradientNormScope } }: Charter): boolean {
  return ends.mode !== 'shared' && maxGradientNorm !== null && gradientNormScope === 'global'
}

/** The last averaging round before this one, or -1. */
export function lastAveragingRound (ends: Charter['ends'], round: number): number {
  return ends.mode === 'average' ? Math.floor(round / ends.every) * ends.every - 1 : -1
}
