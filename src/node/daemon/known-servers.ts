import type { PeerId } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import type { Announcement } from '../../protocols/directory/index.ts'
import type { KnownServer, ServerDirectory } from '../../roles/context.ts'
import type { Gate } from '../network/gate.ts'

export interface KnownServersOptions {
  readonly gate: Gate
  readonly self: PeerId
  readonly coordinator: PeerId
  /** The servers of the directory, as far as this peer has it. */
  readonly announcements: () => Iterable<Announcement>
  readonly roundTripMs: (peer: string) => number | undefined
}

/**
 * The other servers of a federation: what they announced, and how they are connected to this peer. A server that is connected and not in
 * the directory, since it stops or has no place any more, is none of them.
 */
export class KnownServers implements ServerDirectory {
  readonly #options: KnownServersOptions
  readonly #listeners = new Set<() => void>()
  /** The servers that are connected. */
  readonly #connected = new Map<string, PeerId>()

  constructor (options: KnownServersOptions) {
    this.#options = options
    const { gate } = options
    gate.onGreeted(({ peerId, role }) => {
      if (role !== 'server' || this.#connected.has(peerId.toString())) return
      this.#connected.set(peerId.toString(), peerId)
      this.changed()
    })
    gate.onDisconnect((peerId) => { if (this.#connected.delete(peerId.toString())) this.changed() })
  }

  servers (): KnownServer[] {
    const { self, coordinator, announcements, roundTripMs } = this.#options
    const announced = new Map([...announcements()].map((announcement) => [announcement.peer, announcement]))
    const ids = new Set([coordinator.toString(), ...announced.keys()])
    ids.delete(self.toString())
    return [...ids].map((id) => {
      const announcement = announced.get(id)
      return {
        peerId: this.#connected.get(id) ?? peerIdFromString(id),
        connected: this.#connected.has(id),
        isCoordinator: id === coordinator.toString(),
        span: announcement?.span,
        load: announcement?.load,
        roundTripMs: roundTripMs(id),
        isDraining: announcement?.placement?.isDraining === true
      }
    })
  }

  /** What a server announced, by its peer id. */
  announcementOf (peer: string): Announcement | undefined {
    return [...this.#options.announcements()].find((announcement) => announcement.peer === peer)
  }

  onServersChanged (listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => { this.#listeners.delete(listener) }
  }

  /** Tells the listeners that `servers` returns something else than before. */
  changed (): void {
    for (const listener of this.#listeners) listener()
  }
}
