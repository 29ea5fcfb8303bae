import type { OfferedOperations } from '../../../api/operations.ts'
import type { TrainingStatus } from '../../../api/status.ts'

/** A server's part in training: that of the coordinator, or that of a worker. */
export interface TrainingPart {
  /** The adapters of this server: the rounds whose step is in them, undefined while they change and before there are any. */
  readonly adapters: { readonly round: number | undefined }
  status (): { readonly round: number, readonly members: readonly string[], readonly training: TrainingStatus }
  /** Resolves when the adapters here are those of training, of this round or a later one. */
  ready (round: number, signal: AbortSignal): Promise<void>
  /** Whether nothing is kept of a round here, and no adapters are coming. */
  readonly isIdle: boolean
  /** Ends what is in progress with a peer that lost its place in the federation. */
  removed (peer: string): void
  readonly operations: OfferedOperations
  /** Resolves when all work has ended, after the signal that the part was started with has aborted. */
  ended (): Promise<void>
}
