import type { Sequences } from '../../model/layers/hidden-states.ts'
import type { DeviceTensor } from '../../model/runtime/device.ts'
import type { Span } from '../../span.ts'
import type { Tensor } from '../../tensor.ts'
import type { SecureRequest } from './aggregation/secure/messages.ts'

/** Names a pass of a round: both count from 0. */
export interface PassId {
  readonly round: number
  readonly pass: number
}

/** Tensors with their names, in the same order. */
export interface NamedTensors {
  readonly names: readonly string[]
  readonly tensors: readonly Tensor[]
}

/** Where training stands when a client enlists. */
export interface Enlisted extends NamedTensors {
  /** Rounds whose step has been taken. */
  readonly round: number
  /** One more than the last round whose step contains this client's work; 0 when there is none. */
  readonly countedRound: number
  readonly members: number
}

/** Why there is nothing to do yet. */
export interface Waiting {
  readonly members: number
  /** Members that the next round needs. */
  readonly needed: number
  /** Rounds that this client still sits out, since it missed or held up several in a row. */
  readonly sitsOutRounds: number
  /** Blocks that the round waits for, since nobody serves them. */
  readonly missing?: readonly Span[]
}

/** The beginning of a round. */
export interface Begin {
  readonly round: number
  readonly members: number
  /** How long the round waits for this client, all of its replies together. */
  readonly deadlineMs: number
}

/** The step of a round, as one client hears of it. */
export interface StepOutcome extends NamedTensors {
  readonly round: number
  /** What the named gradients are multiplied by, where there are some. */
  readonly scale: number
  /** Whether the round went on without this client's work. */
  readonly leftOut: boolean
  readonly members: number
}

/**
 * One client in training, whatever carries its messages: a stream, another server, or memory. The round tells it things; its replies are
 * added to the `Round` that they belong to. Apart from `enlisted`, every method returns at once: a round never waits until something was
 * read. A participant that cannot be reached any more is detached (`Coordinator.detach`) and stays a member for the time being.
 */
export interface Participant {
  /** Names the client. Participants of the same client that follow one another have the same name. */
  readonly peer: string
  /** The blocks that the client does not compute itself. */
  readonly span: Span
  /** Answers the client's wish to take part. Resolves when it is said. */
  enlisted (place: Enlisted): Promise<void>
  waiting (reason: Waiting): void
  /** A round waits for the client's hidden states, from the first pass on. */
  begin (begin: Begin): void
  /** Hidden states after the middle, in the encoding of the wire. */
  hidden (pass: PassId, tensors: readonly Tensor[]): void
  /** Gradients of the client's hidden states, in the encoding of the wire. */
  gradient (pass: PassId, tensors: readonly Tensor[]): void
  /** What everybody multiplies its mean gradients by in this round. */
  coefficient (round: number, coefficient: number): void
  /** Asks for the next step of a secure sum. Attempts count from 0 in a round. */
  secure (place: { readonly round: number, readonly attempt: number }, request: SecureRequest): void
  step (outcome: StepOutcome): void
  /** The round ended without a step, and what the client did for it is lost. */
  dismissed (): void
  /** Another participant of the same client took this one's place. */
  replaced (): void
}

/** A participant's hidden states in a batch, and the blocks `[first, end)` that compute them. */
export interface StageInput extends Sequences, Span {
  readonly id: string
  /** Hidden states [tokens, hidden] in the encoding of the wire. */
  readonly tensors: readonly Tensor[]
}

/** A pass through the middle whose activations are saved. */
export interface StageOutput {
  /** Hidden states after each participant's last block, in the encoding of the wire. */
  readonly hidden: ReadonlyMap<string, readonly Tensor[]>
  /** Gradients of the middle's adapters after `backward`, by name: sums over the participants that have a gradient. */
  readonly adapterGradients: ReadonlyMap<string, DeviceTensor>
  /** Participants whose hidden states or gradients overflowed on their way, as far as the stage looked: they have no part in the pass. */
  readonly unsound?: ReadonlySet<string>
  /** Computes the gradients of the inputs, in the encoding of the wire, from those of the outputs. It can be called once. */
  backward (gradients: ReadonlyMap<string, { readonly tensors: readonly Tensor[] }>): Promise<ReadonlyMap<string, readonly Tensor[]>>
  /** Hands the adapter gradients over to the caller, who frees them. */
  takeGradients (): ReadonlyMap<string, DeviceTensor>
  /** Frees everything that the pass holds on the device. */
  free (): void
}

/** Sums of gradients over several passes. Disposing of it frees them. */
export interface StageGradients extends Disposable {
  readonly gradients: ReadonlyMap<string, DeviceTensor>
  /** Adds gradients, and owns them from then on. */
  add (gradients: ReadonlyMap<string, DeviceTensor>): Promise<void>
}

/** The blocks of the middle, as a round needs them: `LocalStage` on a device, `DistributedStage` on several servers. */
export interface TrainingStage {
  /** Computes a pass, with the dropout that follows from the seed. The caller frees it. */
  forward (items: readonly StageInput[], options: { readonly dropoutSeed: string }): Promise<StageOutput>
  /** Makes an empty sum. The caller disposes of it. */
  gradientSum (): StageGradients
}

/** The seed of dropout in a pass. It is the same when the pass is computed again. */
export function dropoutSeed (round: number, pass: number): string {
  return pass === 0 ? `round/${round}` : `round/${round}/${pass}`
}

/** The seed of dropout in one client's rows of a pass: it does not depend on who else is in the pass, and no two clients have the same. */
export function clientDropoutSeed (passSeed: string, peer: string): string {
  return `${passSeed}/${peer}`
}
