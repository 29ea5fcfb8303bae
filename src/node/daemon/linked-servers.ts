import type { KnownAddress } from '../federation/membership.ts'
import type { ServerLinks } from '../network/server-links.ts'
import type { DirectoryFollower } from './directory-follower.ts'
import { chooseServers } from './server-selection.ts'

/** Workers that a peer keeps connections to: more than any route through a model has stages. */
export const MAX_LINKED_WORKERS = 64

export interface LinkedServersOptions {
  /** What tells of the servers; undefined at the coordinator, to whom the others come. */
  readonly follower: Pick<DirectoryFollower, 'joined' | 'found' | 'announcements'> | undefined
  readonly links: Pick<ServerLinks, 'setServers' | 'dialNow' | 'reach'>
  readonly isServer: boolean
  /** This peer's id. */
  readonly self: string
}

/**
 * Chooses which servers a peer keeps connections to. Each peer does to those that it joined through; a client besides to some workers of
 * each block and to those that it dialled, a worker to those alone that it hands sequences over to.
 */
export class LinkedServers {
  readonly #options: LinkedServersOptions
  /** Peer ids of the workers that this peer dialled because something was to be computed on them. */
  readonly #dialled = new Set<string>()

  constructor (options: LinkedServersOptions) {
    this.#options = options
  }

  /** Connects to the servers that the directory names now. */
  update (): void {
    const { follower, links } = this.#options
    if (follower !== undefined) links.setServers([...follower.joined(), ...this.#workers(follower)])
  }

  /** Dials a server that is not connected. Resolves when it is, or does not seem to be within reach. */
  async reach (peer: string): Promise<void> {
    const { follower, links, isServer } = this.#options
    const found = follower?.found() ?? []
    const server = found.find(({ peerId }) => peerId === peer)
    if (follower === undefined || server === undefined || (!isServer && this.#workers(follower).some(({ peerId }) => peerId === peer))) {
      links.dialNow()
      return
    }
    for (const id of this.#dialled) if (!found.some(({ peerId }) => peerId === id)) this.#dialled.delete(id)
    if (this.#dialled.size < MAX_LINKED_WORKERS) this.#dialled.add(peer)
    if (this.#dialled.has(peer)) await links.reach(server)
  }

  #workers (follower: NonNullable<LinkedServersOptions['follower']>): KnownAddress[] {
    const { isServer, self } = this.#options
    const wanted = isServer ? this.#dialled : chooseServers(self, follower.announcements()).union(this.#dialled)
    return follower.found().filter(({ peerId }) => wanted.has(peerId)).slice(0, MAX_LINKED_WORKERS)
  }
}
