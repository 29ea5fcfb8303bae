import { Backoff } from '../../backoff.ts'
import {
  createAnnouncement,
  DIRECTORY_PROTOCOL,
  DirectoryStream,
  KnownDirectory,
  verifyAnnouncement,
  type Announcement,
  type AskedMove,
  type DirectoryScope,
  type DirectoryUpdate
} from '../../protocols/directory/index.ts'
import {
  isHalfSpent,
  verifyCertificate,
  verifyMandate,
  verifyRevocations,
  type Certificate,
  type Lead,
  type Mandate,
  type Revocations
} from '../../protocols/hello/index.ts'
import type { Logger } from '../../roles/context.ts'
import {
  readProof,
  readServers,
  writeProof,
  writeServers,
  type KnownAddress,
  type Membership
} from '../federation/membership.ts'
import type { Home } from '../home/home.ts'
import type { Gate } from '../network/gate.ts'
import { Announcer, type Announced } from './announcer.ts'

export interface FollowerOptions {
  readonly home: Home
  readonly gate: Gate
  readonly logger: Logger
  readonly membership: Membership
  readonly scope: DirectoryScope
  /** A server: what it says of itself. */
  readonly announced?: (() => Announced) | undefined
  /** Called when a server came, went, or serves something else. */
  readonly onServersChanged: () => void
  /** Called when this peer got another certificate. */
  readonly onCertificate: () => void
  /** A server: called with the peers that are no members any more. */
  readonly onRevoked: (peers: ReadonlySet<string>) => void
  /** A server that chose its blocks by itself: called with where it is to move as of now; undefined where it is to stay. */
  readonly onMove?: ((move: AskedMove | undefined) => void) | undefined
}

/** What the federation signed for this peer. */
interface Proof {
  readonly certificate: Certificate | undefined
  readonly revocations: Revocations | undefined
  readonly mandate: Mandate | undefined
}

/** The pauses before the coordinator is asked again after its stream broke. */
const FIRST_RETRY_MS = 500
const LAST_RETRY_MS = 30_000

/** How long a peer that stops tries to say so. */
const LEAVE_TIMEOUT_MS = 1_000

/** How often it is looked whether the certificate is to be renewed. */
const RENEW_INTERVAL_MS = 3_600_000

/**
 * Follows the coordinator's directory: keeps a copy of it and the certificate in the home, and announces this peer where it is a server.
 * While the coordinator is away, what the home has is what is known.
 */
export class DirectoryFollower {
  readonly #options: FollowerOptions
  readonly #directory: KnownDirectory
  readonly #fixed: readonly KnownAddress[]
  readonly #stopping = new AbortController()
  #certificate: Certificate | undefined
  #revocations: Revocations | undefined
  #mandate: Mandate | undefined
  #stream: DirectoryStream | undefined
  #announcer: Announcer | undefined
  #running: Promise<void> = Promise.resolve()
  #saving: Promise<void> = Promise.resolve()
  #isStopping = false

  private constructor (
    options: FollowerOptions,
    fixed: readonly KnownAddress[],
    entries: readonly Announcement[],
    proof: Proof
  ) {
    this.#options = options
    this.#fixed = fixed
    this.#directory = new KnownDirectory(entries)
    this.#certificate = proof.certificate
    this.#revocations = proof.revocations
    this.#mandate = proof.mandate
  }

  /** Reads what the home has. Entries and certificates that do not hold are left out: the coordinator gives others. */
  static async open (options: FollowerOptions): Promise<DirectoryFollower> {
    const { home, scope, membership: { peerId: self, lead, signed: { id, charter: { founder } } } } = options
    const saved = await readServers(home)
    const entries = await Promise.all(saved.map(async ({ announcement }) =>
      announcement === undefined ? undefined : await verifyAnnouncement(decoded(announcement), scope).catch(() => undefined)))
    const proof = await readProof(home)
    return new DirectoryFollower(
      options,
      withLeader(
        saved.filter(({ peerId, announcement }) => peerId === founder || peerId === lead.peer || announcement === undefined)
          .map(({ peerId, addresses }) => ({ peerId, addresses })),
        lead
      ).filter(({ peerId }) => peerId !== self.toString()),
      entries.filter((entry) => entry !== undefined),
      {
        certificate: proof.certificate === undefined
          ? undefined
          : await verifyCertificate(decoded(proof.certificate), founder, lead.peer).catch(() => undefined),
        revocations: proof.revocations === undefined
          ? undefined
          : await verifyRevocations(decoded(proof.revocations), founder, id, lead.peer).catch(() => undefined),
        mandate: proof.mandate === undefined
          ? undefined
          : await verifyMandate(decoded(proof.mandate), { founder, federation: id }).catch(() => undefined)
      }
    )
  }

  /** What the servers of the federation say of themselves, as far as this peer has heard. */
  announcements (): Announcement[] {
    return [...this.#directory.entries.values()]
  }

  /** The certificate that this peer shows to servers which did not admit it themselves. */
  certificate (): Uint8Array | undefined {
    return this.#certificate?.bytes
  }

  /** The servers that were named when this peer joined, each with the addresses that it announced since. */
  joined (): KnownAddress[] {
    return this.#fixed.map(({ peerId, addresses }) => ({
      peerId,
      addresses: [...new Set([...addresses, ...this.#directory.entries.get(peerId)?.addresses ?? []])]
    }))
  }

  /** The other servers of the directory that can be dialled. */
  found (): KnownAddress[] {
    const known = new Set([...this.#fixed.map(({ peerId }) => peerId), this.#options.membership.peerId.toString()])
    return this.announcements().filter(({ peer, addresses }) => !known.has(peer) && addresses.length > 0)
      .map(({ peer, addresses }) => ({ peerId: peer, addresses }))
  }

  /** Announces this server now, where the coordinator is connected. */
  announce (): void {
    this.#announcer?.announce().catch(() => {}) // whoever reads the stream notices that it broke
  }

  start (): void {
    if (this.#revocations !== undefined) this.#options.onRevoked(this.#revocations.peers)
    this.#running = this.#run()
  }

  /** Says that this server stops, where it is one and the coordinator can be told, and follows no longer. */
  async stop (): Promise<void> {
    this.#isStopping = true
    const stream = this.#stream
    const limit = AbortSignal.timeout(LEAVE_TIMEOUT_MS)
    // A stream that cannot be ended in time ends with its connection.
    await (this.#options.announced === undefined ? stream?.close(limit) : stream?.leave(limit))?.catch(() => {})
    this.#stopping.abort()
    await this.#running
    await this.#saving
  }

  async #run (): Promise<void> {
    const { gate, logger, membership: { lead: { peer: leader } } } = this.#options
    const { signal } = this.#stopping
    const backoff = new Backoff({ firstMs: FIRST_RETRY_MS, greatestMs: LAST_RETRY_MS })
    while (!this.#isStopping) {
      try {
        await this.#untilGreeted()
        await this.#follow(() => { backoff.reset() })
      } catch (error) {
        if (this.#isStopping) return
        if (gate.roleOf(leader) !== undefined) logger.warn({ peer: leader, err: error }, 'the directory cannot be followed')
      }
      await backoff.wait(signal).catch(() => {})
    }
  }

  /** Resolves when the coordinator is connected. Throws when this peer stops. */
  async #untilGreeted (): Promise<void> {
    const { gate, membership: { lead: { peer: leader } } } = this.#options
    const { signal } = this.#stopping
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const off = gate.onGreeted(({ peerId }) => { if (peerId.toString() === leader) resolve() })
    const stop = (): void => { reject(signal.reason as Error) }
    signal.addEventListener('abort', stop, { once: true })
    if (signal.aborted) stop()
    if (gate.roleOf(leader) !== undefined) resolve()
    try {
      await promise
    } finally {
      off()
      signal.removeEventListener('abort', stop)
    }
  }

  async #follow (onUpdate: () => void): Promise<void> {
    const { gate, scope, membership: { key, lead: { peer: leader } }, announced } = this.#options
    const { signal } = this.#stopping
    const { peerId } = gate.greeted().find((peer) => peer.peerId.toString() === leader) ?? {}
    if (peerId === undefined) return
    const stream = new DirectoryStream(await gate.dial(peerId, DIRECTORY_PROTOCOL, signal), scope)
    const announcer = announced === undefined
      ? undefined
      : new Announcer(announced, async (details) => { await stream.announce(await createAnnouncement(details, key), signal) })
    const renewal = setInterval(() => {
      if (this.#certificate === undefined || isHalfSpent(this.#certificate, Date.now()))
        stream.sync(this.#directory.known, signal).catch(() => {}) // reading notices that the stream broke
    }, RENEW_INTERVAL_MS)
    renewal.unref()
    try {
      await stream.sync(this.#directory.known, signal)
      await announcer?.start()
      this.#stream = stream
      this.#announcer = announcer
      for (;;) {
        await this.#take(await stream.read(signal))
        onUpdate()
      }
    } catch (error) {
      if (!this.#isStopping) stream.abort(error as Error)
      throw error
    } finally {
      this.#stream = undefined
      this.#announcer = undefined
      // Without the coordinator nobody knows whether a move still helps, and hurts nobody.
      this.#options.onMove?.(undefined)
      clearInterval(renewal)
      announcer?.stop()
    }
  }

  async #take (update: DirectoryUpdate): Promise<void> {
    const { membership: { peerId, lead, signed: { id, charter: { founder } } }, onServersChanged, onCertificate, onRevoked } = this.#options
    const change = this.#directory.apply(update)
    if (update.certificate !== undefined) {
      const certificate = await verifyCertificate(update.certificate, founder, lead.peer)
      if (certificate.peer === peerId.toString() && certificate.federation === id) {
        this.#certificate = certificate
        onCertificate()
      }
    }
    if (update.revocations !== undefined) {
      const revocations = await verifyRevocations(update.revocations, founder, id, lead.peer)
      if (revocations.version > (this.#revocations?.version ?? -1)) {
        this.#revocations = revocations
        onRevoked(revocations.peers)
      }
    }
    if (update.mandate !== undefined) {
      const mandate = await verifyMandate(update.mandate, { founder, federation: id })
      if (mandate.peer === peerId.toString()) this.#mandate = mandate
    }
    if (change === 'servers') onServersChanged()
    this.#options.onMove?.(update.move)
    const { certificate, revocations, mandate } = update
    if (change === 'servers' || certificate !== undefined || revocations !== undefined || mandate !== undefined) this.#save()
  }

  /** Writes what is known to the home, after the writes before it. */
  #save (): void {
    const { home, logger } = this.#options
    this.#saving = this.#saving.then(async () => {
      const announcementOf = (peerId: string): string | undefined => {
        const bytes = this.#directory.entries.get(peerId)?.bytes
        return bytes === undefined ? undefined : encoded(bytes)
      }
      const servers = [...this.#fixed, ...this.found()]
      await writeServers(home, servers.map((server) => ({ ...server, announcement: announcementOf(server.peerId) })))
      await writeProof(home, {
        certificate: this.#certificate === undefined ? undefined : encoded(this.#certificate.bytes),
        revocations: this.#revocations === undefined ? undefined : encoded(this.#revocations.bytes),
        mandate: this.#mandate === undefined ? undefined : encoded(this.#mandate.bytes)
      })
    }).catch((error: unknown) => { logger.warn({ err: error }, 'what is known of the servers cannot be kept') })
  }
}

/** Adds the server that leads, at the addresses that it says itself, first. */
function withLeader (servers: readonly KnownAddress[], { peer, addresses }: Lead): KnownAddress[] {
  if (addresses.length === 0) return [...servers]
  const known = servers.find(({ peerId }) => peerId === peer)?.addresses ?? []
  return [{ peerId: peer, addresses: [...new Set([...addresses, ...known])] }, ...servers.filter(({ peerId }) => peerId !== peer)]
}

function encoded (bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64')
}

function decoded (text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64'))
}
