import { StringValueSchema, type StringValue } from '@bufbuild/protobuf/wkt'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { PrivateKey, Stream } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { streamPair } from '@libp2p/utils'
import { acceptChannel, type Channel, type ChannelOptions, openChannel } from '../../src/protocols/wire/channel.ts'

const MiB = 2 ** 20

export type TextChannel = Channel<StringValue, StringValue>
export type TextOptions = ChannelOptions<StringValue, StringValue>

export const charter = new Uint8Array(32).fill(7)

/** The same key for the same number. */
export async function identityOf (number: number): Promise<PrivateKey> {
  return await generateKeyPairFromSeed('Ed25519', new Uint8Array(32).fill(number))
}

/** Options of a client (identity 1) and a server (identity 2) that exchange strings. */
export async function textOptions (changes: Partial<TextOptions> = {}): Promise<{ client: TextOptions, server: TextOptions }> {
  const [client, server] = await Promise.all([identityOf(1), identityOf(2)])
  const common = {
    protocol: '/midspan/test/1', charter, outgoing: StringValueSchema, incoming: StringValueSchema,
    limits: { maxMessageBytes: 64 * 1024, maxTensorBytes: 80 * MiB, maxTensors: 8 }
  }
  return {
    client: { ...common, identity: client, remotePeer: peerIdFromPrivateKey(server), ...changes },
    server: { ...common, identity: server, remotePeer: peerIdFromPrivateKey(client), ...changes }
  }
}

/** A session over these two streams, or over a fresh pair in memory. */
export async function channelPair (
  changes: Partial<TextOptions> = {},
  streams?: readonly [Stream, Stream]
): Promise<{ client: TextChannel, server: TextChannel }> {
  const [outbound, inbound] = streams ?? await streamPair({ protocol: '/midspan/test/1' })
  const options = await textOptions(changes)
  const [client, server] = await Promise.all([openChannel(outbound, options.client), acceptChannel(inbound, options.server)])
  return { client, server }
}
