import { createLead } from '../../protocols/hello/index.ts'
import { readProof, readServers, type KnownAddress, type Membership } from '../federation/membership.ts'
import type { Home } from '../home/home.ts'
import { chooseInviteAddresses } from '../network/invite-addresses.ts'
import type { MidspanNode } from '../network/libp2p.ts'
import type { Leadership } from './leadership.ts'

/** What the home of a server that leads in the founder's place has of the time before. */
export interface KnownBefore {
  /** The other servers, who may hear from nobody else that this one leads. */
  readonly servers: readonly KnownAddress[]
  /** Its own certificate as a worker. */
  readonly certificate: Uint8Array | undefined
}

/** Reads what a home knew before its server took over, at most `maxServers` servers. `self` is the server's own peer id. */
export async function readKnownBefore (home: Home, self: string, maxServers: number): Promise<KnownBefore> {
  const [servers, { certificate }] = await Promise.all([readServers(home), readProof(home)])
  return {
    servers: servers.filter(({ peerId, addresses }) => peerId !== self && addresses.length > 0).slice(0, maxServers)
      .map(({ peerId, addresses }) => ({ peerId, addresses })),
    certificate: decoded(certificate)
  }
}

/** Signs where the server can be dialled that leads in the founder's place: members that come back may know no other address of it. */
export async function signOwnAddresses (
  home: Home,
  { key, signed, lead: { term } }: Membership,
  leadership: Leadership,
  node: MidspanNode
): Promise<void> {
  const { mandate } = await readProof(home)
  const { bytes } = await createLead({
    federation: signed.id,
    term,
    mandate: decoded(mandate),
    addresses: chooseInviteAddresses(node.getMultiaddrs()).addresses.map((address) => address.toString().split('/p2p/')[0] as string)
  }, key)
  if (bytes !== undefined) await leadership.take(bytes)
}

function decoded (base64: string | undefined): Uint8Array | undefined {
  return base64 === undefined ? undefined : new Uint8Array(Buffer.from(base64, 'base64'))
}
