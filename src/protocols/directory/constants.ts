import { MAX_REVOCATIONS_BYTES } from '../hello/revocations.ts'

/**
 * The libp2p protocol id. A charter does not fix its version: a peer that does not speak it works with the founder's server alone, as long
 * as that one serves every block.
 */
export const DIRECTORY_PROTOCOL = '/midspan/directory/1.0.0'

/** A server announces itself this often, and whenever it serves other blocks or has other addresses. */
export const ANNOUNCE_INTERVAL_MS = 30_000

/** How long an entry stands without another announcement: three may be lost. */
export const ANNOUNCEMENT_LIFETIME_MS = 120_000

/** An announcement that claims to stand for longer is refused. What is above the lifetime is for clocks that differ. */
export const MAX_ANNOUNCEMENT_LIFETIME_MS = 300_000

/** Servers in a directory at most: four for each of the 64 blocks of a large model. */
export const MAX_SERVERS = 256

/** Addresses of one server, as in an invite. */
export const MAX_ADDRESSES = 8

/** A DNS name has at most 255 characters. */
export const MAX_ADDRESS_BYTES = 300

/** Protocols that an announcement names. */
export const MAX_PROTOCOLS = 32

/** What a server says of why it serves its blocks: a sentence. */
export const MAX_REASON_CHARS = 200

/** A format of weights, by name. */
export const MAX_FORMAT_CHARS = 16

/** Eight addresses, two names, a dozen protocols and a signature take 900 bytes. */
export const MAX_ANNOUNCEMENT_BYTES = 4096

/** An announcement, or the two numbers of a sync. */
export const MAX_MEMBER_MESSAGE_BYTES = MAX_ANNOUNCEMENT_BYTES + 256

/** All entries at their largest, as many removals, a certificate and a list of revocations. */
export const MAX_UPDATE_BYTES = MAX_SERVERS * (MAX_ANNOUNCEMENT_BYTES + 64) + MAX_REVOCATIONS_BYTES + 4096

/** Messages of one member in a minute: a server that is busy sends six, and some more when it starts again. */
export const MAX_MESSAGES_PER_MINUTE = 30
