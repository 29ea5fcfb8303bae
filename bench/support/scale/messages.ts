import type { DeviceSpeed } from './simulated-device.ts'

/** Whom a process hosts: daemons of one role, with simulated devices. */
export interface HostSettings {
  readonly role: 'server' | 'client'
  readonly speed: DeviceSpeed
}

/** What a process is told to do. */
export type Order =
  /** Starts the daemons of these homes. With an invite they join first, servers with this model and these blocks. */
  | {
    readonly kind: 'start'
    readonly homes: readonly string[]
    readonly invite?: string
    readonly model?: string
    readonly blocks?: string
  }
  /** Resolves when each daemon has connections to this many servers. */
  | { readonly kind: 'connected', readonly servers: number }
  | { readonly kind: 'report' }
  /** Once each client has done a round, the next report begins anew. */
  | { readonly kind: 'train', readonly data: string, readonly rounds: number, readonly sequences: number, readonly maxTokens: number }
  | { readonly kind: 'generate', readonly ids: readonly number[], readonly maxTokens: number }

/** What the clients of a process did, each one's rounds or tokens by when they came, in milliseconds since 1970. */
export interface Work {
  readonly times: ReadonlyArray<readonly number[]>
  /** Of all clients and all of their rounds. */
  readonly sentBytes: number
  readonly receivedBytes: number
}

/** What a process did since it was last asked. */
export interface HostReport {
  readonly daemons: number
  readonly cpuMs: number
  readonly residentBytes: number
  readonly heapBytes: number
  /** Both directions of all daemons. */
  readonly connections: number
  /** Sealed messages that were sent. */
  readonly messages: number
  /** Messages to devices. */
  readonly deviceMessages: number
  /** Milliseconds in which each device was busy, by daemon. */
  readonly busyMs: readonly number[]
  /** How late the event loop was at worst. */
  readonly lateMs: number
}

/** `failure` stands alone: the order could not be carried out. */
export interface Answer {
  readonly failure?: string
  readonly report?: HostReport
  readonly work?: Work
}
