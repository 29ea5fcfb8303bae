import type { SecureRequest } from '../../../src/roles/training/aggregation/secure/messages.ts'
import type { Commit, KnownMember, StateStore, UnaveragedTokens } from '../../../src/roles/training/coordinator-state.ts'
import type { ReplicaRecord } from '../../../src/roles/training/hierarchy/replicas.ts'
import type {
  Begin,
  Enlisted,
  Participant,
  PassId,
  StepOutcome,
  Waiting
} from '../../../src/roles/training/participant.ts'
import type { Span } from '../../../src/span.ts'
import type { Tensor } from '../../../src/tensor.ts'

/** A participant in memory that notes what it is told. Its methods can be replaced by ones that reply. */
export class MemoryParticipant implements Participant {
  readonly peer: string
  readonly span: Span
  /** The kinds of what it was told, in order, its own enlistment aside. */
  readonly told: string[] = []
  /** The last reason to wait. */
  reason: Waiting | undefined
  isReplaced = false

  constructor (peer: string, span: Span = { first: 1, end: 2 }) {
    this.peer = peer
    this.span = span
  }

  async enlisted (_place: Enlisted): Promise<void> {}

  waiting (reason: Waiting): void {
    this.reason = reason
    this.told.push('waiting')
  }

  begin (_begin: Begin): void {
    this.told.push('begin')
  }

  hidden (_pass: PassId, _tensors: readonly Tensor[]): void {
    this.told.push('hidden')
  }

  gradient (_pass: PassId, _tensors: readonly Tensor[]): void {
    this.told.push('gradient')
  }

  coefficient (_round: number, coefficient: number): void {
    this.told.push(`coefficient ${coefficient}`)
  }

  secure (_place: { round: number, attempt: number }, { step }: SecureRequest): void {
    this.told.push(step)
  }

  step ({ leftOut }: StepOutcome): void {
    this.told.push(leftOut ? 'left out' : 'step')
  }

  dismissed (): void {
    this.told.push('dismissed')
  }

  replaced (): void {
    this.isReplaced = true
  }
}

/** Keeps the state of training in memory; `write` stands for the disk. */
export class MemoryState implements StateStore {
  round = 0
  lastTurn: string | undefined
  members: readonly KnownMember[] = []
  unaveragedTokens: UnaveragedTokens = {}
  replicas: ReplicaRecord | undefined
  tensors: ReadonlyMap<string, Tensor> = new Map()
  readonly #counted = new Map<string, number>()
  readonly #write: (step: Commit) => Promise<void>

  constructor (write: (step: Commit) => Promise<void> = async () => {}) {
    this.#write = write
  }

  countedRound (peer: string): number {
    return this.#counted.get(peer) ?? 0
  }

  async commit (step: Commit): Promise<void> {
    await this.#write(step)
    this.round = step.round
    this.lastTurn = step.lastTurn
    this.unaveragedTokens = step.unaveragedTokens
    this.replicas = step.replicas
    this.tensors = step.tensors
    for (const peer of step.counted) this.#counted.set(peer, step.round)
  }
}
