import type { PeerId, PrivateKey, Stream } from '@libp2p/interface'
import type { OfferedOperations } from '../api/operations.ts'
import type { GenerationStatus, TrainingStatus } from '../api/status.ts'
import type { WeightFormat } from '../model/layers/weight-format.ts'
import type { ComputeType, DeviceKind } from '../model/runtime/device.ts'
import type { ResidualSetting } from '../model/training/activation-checkpointing.ts'
import type { Charter, ClientSettings } from '../protocols/charter/index.ts'

/** What a role may log to: pino's, and anything shaped like it. Never text, tokens or tensors. */
export interface Logger {
  debug (details: object, message: string): void
  info (details: object, message: string): void
  warn (details: object, message: string): void
  error (details: object, message: string): void
}

export interface HandleOptions {
  /** Streams of this protocol that one connection may have open at once. */
  readonly maxInboundStreams?: number
}

/** Attach readers before the first await: what arrives while nobody listens can overflow the stream. */
export type ProtocolHandler = (stream: Stream, remotePeer: PeerId) => void | Promise<void>

/** What a peer decided for itself, as its role needs it. */
export interface RoleSettings {
  readonly device: DeviceKind
  /** Threads of the device; undefined leaves the choice to it. */
  readonly threads: number | undefined
  /** What the device keeps this peer's frozen matrices as. */
  readonly weights: WeightFormat
  readonly residuals: ResidualSetting
  /** Bytes that one pass may keep where residuals are chosen by measurement; undefined: no limit. */
  readonly residualBytes: number | undefined
  /** What products with frozen weights of blocks are computed in. */
  readonly compute: ComputeType
}

/** A server that a client knows, and whether it can be reached now. */
export interface KnownServer {
  readonly peerId: PeerId
  readonly connected: boolean
}

/** All that a role sees of the node it runs in. */
export interface RoleContext {
  readonly identity: PrivateKey
  readonly peerId: PeerId
  readonly charter: Charter
  /** SHA-256 of the canonical charter: sessions are bound to it. */
  readonly charterHash: Uint8Array
  readonly paths: {
    /** Where the role keeps what must survive a restart. */
    readonly state: string
    /** The model directory: a server's whole one, a client's with its ends. */
    readonly model: string
    /** A server's file of the adapter that training starts from, where the charter has one. */
    readonly adapter: string
  }
  readonly settings: RoleSettings
  readonly logger: Logger
  /** Opens a stream to an admitted peer. Throws a typed error when there is no way to it. */
  dial (peer: PeerId, protocol: string, signal: AbortSignal): Promise<Stream>
  /** Answers a protocol, for admitted peers alone: the others are refused before the handler sees them. */
  handle (protocol: string, handler: ProtocolHandler, options?: HandleOptions): Promise<void>
  unhandle (protocol: string): Promise<void>
  /** Calls back when the last connection to a peer is gone. Returns how to stop that. */
  onDisconnect (listener: (peer: PeerId) => void): () => void
}

/** A client's context: what it chose within the charter, and whom it works with. */
export interface ClientContext extends RoleContext {
  readonly client: ClientSettings
  /** The servers of the federation that this client knows. */
  servers (): KnownServer[]
}

/** A role at work. */
export interface RunningRole {
  /** What `status` shows of it: plain JSON. */
  status (): RoleStatus
  /** By name, such as `train`. */
  readonly operations: OfferedOperations
  /** Ends all work and frees the device. Called again, it does nothing. */
  stop (): Promise<void>
}

/** What a role tells of itself, to its own user and to admitted peers. All optional: a role fills in what it has. */
export interface RoleStatus {
  /** Blocks served, or held as ends: `[first, end)`. */
  readonly blocks?: ReadonlyArray<readonly [first: number, end: number]>
  readonly device?: string
  readonly sessions?: ReadonlyArray<{ readonly peer: string, readonly kind: string }>
  /** Rounds completed. */
  readonly round?: number
  /** Peer ids of a running round. */
  readonly members?: readonly string[]
  /** For the role's own user: plain JSON, null while there is none. */
  readonly training?: TrainingStatus | null
  readonly generation?: GenerationStatus | null
}

export type StartServerRole = (context: RoleContext) => Promise<RunningRole>
export type StartClientRole = (context: ClientContext) => Promise<RunningRole>
