import type { ServerLinks } from '../network/server-links.ts'
import type { DirectoryFollower } from './directory-follower.ts'

/** Workers that a peer keeps connections to: more than any route through a model has stages. */
export const MAX_LINKED_WORKERS = 64

export interface LinkedServersOptions {
  /** What tells of the servers; undefined at the coordinator, to whom the others come. */
  readonly follower: Pick<DirectoryFollower, 'joined' | 'found'> | undefined
  readonly links: Pick<ServerLinks, 'setServers' | 'dialNow' | 'reach'>
  readonly isServer: boolean
}

/**
 * Chooses which servers a peer keeps connections to: a client to those that it joined through and to all workers, a worker to those that it
 * joined through and to the servers alone that it hands sequences over to.
 */
export class LinkedServers {
  readonly #options: LinkedServersOptions
  /** Peer ids of the workers that this worker dialled. */
  readonly #dialled = new Set<string>()

  constructor (options: LinkedServersOptions) {
    this.#options = options
  }

  /** Connects to the servers that the directory names now. */
  update (): void {
    const { follower, links, isServer } = this.#options
    if (follower === undefined) return
    const workers = follower.found().filter(({ peerId }) => !isServer || this.#dialled.has(peerId))
    links.setServers([...follower.joined(), ...workers.slice(0, MAX_LINKED_WORKERS)])
  }

  /** Dials a server that is not connected. Resolves when it is, or does not seem to be within reach. */
  async reach (peer: string): Promise<void> {
    const { follower, links, isServer } = this.#options
    const found = follower?.found() ?? []
    const server = found.find(({ peerId }) => peerId === peer)
    if (!isServer || server === undefined) {
      links.dialNow()
      return
    }
    for (const id of this.#dialled) if (!found.some(({ peerId }) => peerId === id)) this.#dialled.delete(id)
    if (this.#dialled.size < MAX_LINKED_WORKERS) this.#dialled.add(peer)
    if (this.#dialled.has(peer)) await links.reach(server)
  }
}
