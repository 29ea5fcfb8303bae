import type { DeviceTensor } from '../../../model/runtime/device.ts'
import type { Span } from '../../../span.ts'
import type { Tensor } from '../../../tensor.ts'
import type { UnaveragedTokens } from '../coordinator-state.ts'
import type { ReplicaRecord } from '../hierarchy/replicas.ts'
import type { NamedTensors } from '../participant.ts'
import type { AcceptedUpdate, Update } from '../update.ts'

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

/** A step that was taken on the server, and what follows from it. */
export interface StepTaken {
  /** What summed gradients were multiplied by. */
  readonly scale: number
  /** What a client with this middle must know to keep its own blocks in step. */
  for: (middle: Span) => NamedTensors
  /** The state after the step, to be made durable. */
  readonly tensors: ReadonlyMap<string, Tensor>
  readonly unaveragedTokens: UnaveragedTokens
  /** Which servers have parameters of their own, where they do. */
  readonly replicas?: ReplicaRecord
}

/** How the server makes one step out of the work of many clients. */
export interface AggregationStrategy {
  /** Who takes part in the next round. */
  readonly selection: ClientSelection
  /** Whether participants tell the norm of their own gradients and wait for a coefficient before they step. */
  readonly collectsNorms: boolean
  /** The tensors that a client with this middle contributes to a round, in order. */
  expectedFrom (middle: Span, round: number): readonly AdapterShape[]
  /** What a client with this middle that has seen `clientRound` rounds lacks of the state of its own blocks. */
  stateFor (middle: Span, clientRound: number): NamedTensors
  /** The adapters that the server holds as of the last step; without those of the blocks in `except`. */
  committed (except?: Span): Promise<NamedTensors & { readonly round: number }>
  /** The adapters that a server computes with, where servers have adapters of their own between two averages. */
  committedFor? (server: string): Promise<NamedTensors & { readonly round: number }>
  /** Whether `parts` gradients like these have a finite sum. */
  isSummable (gradients: ReadonlyMap<string, DeviceTensor>, parts: number): Promise<boolean>
  /** What brings the norm of all that is stepped in a round down to the plan's maximum, above 0 and at most 1. */
  clippingCoefficient (middleGradients: ReadonlyMap<string, DeviceTensor>, updates: readonly Update[]): Promise<number>
  /** Takes one step with everything that counts in a round, clipped by `coefficient` where the clients have been told one. */
  step (
    round: number,
    middleGradients: ReadonlyMap<string, DeviceTensor>,
    accepted: readonly AcceptedUpdate[],
    coefficient?: number
  ): Promise<StepTaken>
  /** Goes back to the last step that was made durable. */
  revert (): Promise<void>
}

/** Who takes part in the next round. */
export interface ClientSelection {
  /** Members that a round needs. */
  needed (round: number): number
  /** The participants among these members. `lastTurn` is the last peer whose work is in the round before. */
  participants (members: readonly string[], lastTurn: string | undefined): string[]
}

/** The adapters of a client's own blocks, as a strategy uses them: `AdapterState`. */
export interface ClientAdapters {
  /** The adapters as they are. */
  values (): Promise<ReadonlyMap<string, Tensor>>
  /** Copies gradients to the host, in the order in which they are handed in. */
  download (gradients: ReadonlyMap<string, DeviceTensor>): Promise<ReadonlyMap<string, Tensor>>
  /** Takes the step that every holder of these blocks takes. */
  step (gradients: ReadonlyMap<string, Tensor>, settings: { readonly learningRate: number, readonly scale: number }): Promise<void>
  /** Keeps the step that was prepared. */
  promote (): Promise<void>
  /** Drops the step that was prepared. */
  revert (): Promise<void>
  /** Takes over the federation's values of the adapters. */
  adopt (state: ReadonlyMap<string, Tensor>): Promise<void>
}

/** The end of a round, as a client's strategy sees it. */
export interface RoundEnd {
  /** Whether this client's work is in the step. */
  readonly counted: boolean
  /** What the server sent with the step, checked. */
  readonly tensors: ReadonlyMap<string, Tensor>
  readonly scale: number
  readonly learningRate: number
}

/** What a client does with its own blocks in a round. */
export interface ClientStrategy {
  /** Whether the client's adapters are the federation's: then they are fetched before use, and none of them are the client's alone. */
  readonly sharesAdapters: boolean
  /** Whether the client steps its own blocks by itself, before it hands in its work. */
  readonly stepsItself: boolean
  /** Whether the client tells the norm of its gradients, and steps with the coefficient that it is answered. */
  readonly tellsGradientNorm: boolean
  /**
   * What the client hands in after the last pass of a round, and after its own step where it takes one. `unaveragedTokens` are those that
   * its adapters have learnt from since the last average, this round's included.
   */
  contribution (
    round: number,
    adapters: ClientAdapters,
    gradients: ReadonlyMap<string, DeviceTensor>,
    unaveragedTokens: number
  ): Promise<ReadonlyMap<string, Tensor>>
  /** Brings the client's adapters to the end of a round. */
  finish (adapters: ClientAdapters, end: RoundEnd): Promise<void>
}
