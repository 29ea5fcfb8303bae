import {
  createAnnouncement,
  Directory,
  DIRECTORY_PROTOCOL,
  DirectoryHost,
  type Announcement,
  type AskedMove,
  type Change,
  type DirectoryScope
} from '../../protocols/directory/index.ts'
import { createCertificate } from '../../protocols/hello/index.ts'
import type { Membership } from '../federation/membership.ts'
import type { Gate } from '../network/gate.ts'
import { Announcer, type Announced } from './announcer.ts'
import type { FounderServices } from './founder-services.ts'

export interface FounderDirectoryOptions {
  readonly gate: Gate
  readonly membership: Membership
  readonly services: Pick<FounderServices, 'revocations' | 'weightOf' | 'mandate'>
  readonly scope: DirectoryScope
  /** What this server says of itself. */
  readonly announced: () => Announced
  /** Where a server is to move now. */
  readonly moveOf: (peer: string) => AskedMove | undefined
  /** Called when a server came, went, or serves something else. */
  readonly onServersChanged: () => void
}

/** How often entries are looked through for those that expired. */
const EXPIRE_INTERVAL_MS = 5_000

/** The directory on the founder's server: takes announcements in, the server's own among them, and gives the directory to members. */
export class FounderDirectory {
  readonly #directory = new Directory()
  readonly #options: FounderDirectoryOptions
  readonly #host: DirectoryHost
  readonly #announcer: Announcer
  #expiry: NodeJS.Timeout | undefined

  constructor (options: FounderDirectoryOptions) {
    const { gate, membership: { key, signed, peerId }, services, scope, announced } = options
    this.#options = options
    this.#host = new DirectoryHost({
      directory: this.#directory,
      scope,
      roleOf: (peer) => gate.roleOf(peer),
      certify: async (peer, role) =>
        await createCertificate({ federation: signed.id, peer, role, weight: services.weightOf(peer) }, key),
      revocations: async () => await services.revocations(),
      mandate: (peer) => services.mandate(peer),
      move: (peer) => this.#options.moveOf(peer),
      onChanged: (change) => { this.#changed(change) }
    })
    this.#announcer = new Announcer(announced, async (details) => {
      const change = this.#directory.announce(await createAnnouncement(details, key), peerId.toString())
      this.#changed(change)
      this.#host.notify(change)
    })
  }

  /** What the servers of the federation say of themselves, this one included. */
  announcements (): Announcement[] {
    return this.#directory.announcements()
  }

  async start (): Promise<void> {
    await this.#options.gate.handle(DIRECTORY_PROTOCOL, async (stream, peer) => {
      await this.#host.serve(stream, peer.toString())
    })
    await this.#announcer.start()
    this.#expiry = setInterval(() => {
      if (this.#directory.expire().length > 0) this.#tell('servers')
    }, EXPIRE_INTERVAL_MS)
    this.#expiry.unref()
  }

  /** Sends servers the mandates that they were given, and where they are to move. */
  toldAnew (): void {
    this.#host.notify('servers')
  }

  /** Takes out a peer that has no place any more, and tells the servers that its certificate does not hold. */
  forget (peer: string): void {
    this.#host.forget(peer)
    if (this.#directory.remove(peer)) this.#changed('servers')
    this.#host.notify('servers')
  }

  stop (): void {
    clearInterval(this.#expiry)
    this.#announcer.stop()
  }

  #tell (change: Change): void {
    this.#changed(change)
    this.#host.notify(change)
  }

  #changed (change: Change): void {
    if (change === 'servers') this.#options.onServersChanged()
  }
}
