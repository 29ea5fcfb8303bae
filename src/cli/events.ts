/** What the daemon answers over its control socket, as docs/cli.md documents it for `--json`. */

export interface SkippedLine {
  readonly line: number
  readonly reason: string
}

interface Traffic {
  readonly sentBytes: number
  readonly receivedBytes: number
}

export interface TrainStart {
  readonly type: 'start'
  readonly round: number
  readonly rounds: number
  readonly resumedFrom?: number
  readonly records: number
  readonly skippedLines: readonly SkippedLine[]
}

export interface TrainRound extends Traffic {
  readonly type: 'round'
  readonly round: number
  readonly done: number
  readonly rounds: number
  /** Mean over the round's tokens, in nats. */
  readonly loss: number
  readonly tokens: number
  readonly tokensPerSecond: number
  /** The share of released rows that the clip shortened, 0 to 1. */
  readonly clippedFraction: number
  /** This client missed the round's deadline, and its work is not in the step. */
  readonly leftOut: boolean
  readonly members: number
}

export interface TrainDone extends Traffic {
  readonly type: 'done'
  /** Rounds done in all. */
  readonly rounds: number
  /** Of the last round; null where there was nothing left to do. */
  readonly loss: number | null
  readonly seconds: number
}

export type TrainEvent = TrainStart | { readonly type: 'waiting', readonly reason: string } | TrainRound | TrainDone

interface EvaluateResult extends Traffic {
  readonly type: 'result'
  readonly loss: number
  readonly perplexity: number
  readonly tokens: number
  readonly sequences: number
  readonly seconds: number
}

export type EvaluateEvent = { readonly type: 'progress', readonly sequences: number, readonly tokens: number } | EvaluateResult

export interface GenerateDone extends Traffic {
  readonly type: 'done'
  readonly text: string
  readonly ids: readonly number[]
  readonly reason: 'stop' | 'length'
  readonly promptTokens: number
  readonly tokens: number
  readonly prefillSeconds: number
  readonly decodeSeconds: number
  readonly tokensPerSecond: number
}

export type GenerateEvent =
  | { readonly type: 'text', readonly text: string }
  | { readonly type: 'waiting', readonly reason: string }
  | GenerateDone

interface Exported {
  readonly type: 'done'
  readonly directory: string
  readonly tensors: number
  readonly round: number
  /** Numbers that were trained. */
  readonly parameters: number
}

export type ExportDone = Exported & ({ readonly format: 'peft' } | {
  readonly format: 'merged'
  /** Tensors that training changed. */
  readonly changed: number
  readonly bytes: number
})
