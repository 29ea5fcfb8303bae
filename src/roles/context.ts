import type { PeerId, PrivateKey, Stream } from '@libp2p/interface'
import type { OfferedOperations } from '../api/operations.ts'
import type { VerificationStatus } from '../api/stage-checks.ts'
import type { GenerationStatus, RouteStatus, TrainingStatus } from '../api/status.ts'
import type { WeightFormat } from '../model/layers/weight-format.ts'
import type { ComputeType, DeviceKind } from '../model/runtime/device.ts'
import type { ResidualSetting } from '../model/training/activation-checkpointing.ts'
import type { Charter, ClientSettings, Partition } from '../protocols/charter/index.ts'
import type { Span } from '../span.ts'
import type { Logger } from './logger.ts'

export type { Logger } from './logger.ts'

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

/** How much a server has to do, and how fast it is, as it says itself. */
export interface ServerLoad {
  /** Sealed sessions that are open. */
  readonly sessions: number
  /** Tokens that wait for a run. */
  readonly queuedTokens: number
  /** Bytes of KV cache that may still be given out. */
  readonly freeCacheBytes: number
  /** Measured tokens a second through its whole span, many at a time; 0 while nothing was measured. */
  readonly prefillTokensPerSecond: number
  /** Measured tokens a second through its whole span, one at a time; 0 while nothing was measured. */
  readonly decodeTokensPerSecond: number
}

/** A server that a peer knows, what it serves, and whether it can be reached now. */
export interface KnownServer {
  readonly peerId: PeerId
  readonly connected: boolean
  /** Whether it leads the rounds of training. */
  readonly isCoordinator: boolean
  /** The blocks that it serves; undefined while this peer has not heard of them. */
  readonly span: Span | undefined
  /** Undefined while this peer has not heard of it. */
  readonly load: ServerLoad | undefined
  /** Milliseconds of a message there and back, as measured last; undefined while nothing was measured. */
  readonly roundTripMs: number | undefined
  /** Whether it is about to serve other blocks: nothing new is begun with it. */
  readonly isDraining?: boolean
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
    /** Where a client keeps the logs of its runs. */
    readonly runs: string
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
  /** Calls back when the last connection to a peer is gone. Returns how to stop that. */
  onDisconnect (listener: (peer: PeerId) => void): () => void
}

/** The servers of a federation, as this peer knows them. */
export interface ServerDirectory {
  /** The servers other than this peer. */
  servers (): readonly KnownServer[]
  /** Calls back when `servers` would return something else: one came, went, or serves other blocks. Returns how to stop that. */
  onServersChanged (listener: () => void): () => void
}

/** A client's context: what it chose within the charter, and whom it works with. */
export interface ClientContext extends RoleContext, ServerDirectory {
  readonly client: ClientSettings
  /** The share of generated texts whose servers are checked, by having others compute the same again. */
  readonly verify: number
}

/** A server's context: what it serves, and who leads. */
export interface ServerContext extends RoleContext, ServerDirectory {
  /** The blocks that this server serves. */
  readonly span: Span
  /** The server that leads the rounds of training. It may be this one. */
  readonly coordinator: PeerId
  /** The share that a peer's texts have of this server beside those of others, as its invite says; 1 where nothing is known of it. */
  weightOf (peer: string): number
  /** The coordinator: whether a server may lead one day, and gets copies of the state of training. */
  isEntrusted? (peer: string): boolean
}

/** How a client comes to hold other blocks. The weights of all of them are in its model directory by then. */
export interface PartitionChanges {
  /** Throws where the change would lose what was learnt, unless `discard` says that this is meant. */
  check (partition: Partition, discard: boolean): void
  /** Says in which way training does not go on exactly after such a change; null where it does. */
  note (before: Partition, after: Partition): string | null
  /**
   * Changes the settings, between two rounds where training runs. `commit` makes them durable; where something fails, all is as before. The
   * signal ends the wait, and not a change that has begun.
   */
  change (settings: ClientSettings, commit: () => Promise<void>, signal: AbortSignal): Promise<void>
}

/** A server that begins nothing new, since it is about to serve other blocks. */
export interface Draining {
  /** Resolves when nothing is under way. Rejects with the signal's reason. */
  idle (signal: AbortSignal): Promise<void>
  /** Lets everything begin again. */
  end (): void
}

/** A role at work. */
export interface RunningRole {
  /** What `status` shows of it: plain JSON. */
  status (): RoleStatus
  /** A server: how much it has to do, for those who choose among servers. */
  load? (): ServerLoad
  /** Ends what is in progress with a peer that lost its place in the federation, so that nobody waits for it. */
  removed? (peer: string): void
  /** A server: begins nothing new from now on. */
  drain? (): Draining
  /** A client: how it comes to hold other blocks. */
  readonly partition?: PartitionChanges
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
  /** A client's: the servers that would carry its next text. */
  readonly route?: RouteStatus | null
  /** A client's: what its checks of servers came to. */
  readonly verification?: VerificationStatus | null
}

export type StartServerRole = (context: ServerContext) => Promise<RunningRole>
export type StartClientRole = (context: ClientContext) => Promise<RunningRole>
