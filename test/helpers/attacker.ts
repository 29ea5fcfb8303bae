import { connect, type Socket } from 'node:net'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import type { Connection, Libp2p, MessageStream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import type { Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

/** A connection whose muxer's frames can be written by hand. */
export interface RawConnection {
  readonly connection: Connection
  readonly secured: MessageStream
}

/** A stranger that speaks libp2p up to its muxer and then does as it likes. Stop it after use. */
export interface Attacker {
  readonly node: Libp2p
  connect (addresses: readonly Multiaddr[]): Promise<RawConnection>
}

/** Starts a stranger with an identity of its own, which dials from a local address where one is given. */
export async function startAttacker (localAddress?: string): Promise<Attacker> {
  let newest: MessageStream | undefined
  const node = await createLibp2p({
    privateKey: await generateKeyPair('Ed25519'),
    transports: [tcp(localAddress === undefined ? {} : { dialOpts: { localAddress } as object })],
    connectionEncrypters: [noise()],
    streamMuxers: [() => {
      const factory = yamux({ enableKeepAlive: false })()
      const create = factory.createStreamMuxer.bind(factory)
      factory.createStreamMuxer = (secured) => {
        newest = secured
        return create(secured)
      }
      return factory
    }],
    connectionMonitor: { enabled: false },
    services: { identify: identify() }
  })
  await node.handle('/midspan/role/client/1.0.0', (stream) => { stream.abort(new Error('nothing is said here')) })
  return {
    node,
    connect: async (addresses) => {
      const connection = await node.dial([...addresses], { force: true })
      if (newest === undefined) throw new Error('no muxer was made')
      return { connection, secured: newest }
    }
  }
}

/** A yamux frame without data: type 1 gives window back, type 2 pings; flag 1 opens, 8 resets. */
export function yamuxHeader (type: number, flags: number, stream: number, length: number): Uint8Array {
  const frame = new Uint8Array(12)
  const view = new DataView(frame.buffer)
  view.setUint8(1, type)
  view.setUint16(2, flags)
  view.setUint32(4, stream)
  view.setUint32(8, length)
  return frame
}

/** Many frames as one piece of bytes. */
export function yamuxFrames (count: number, frame: (index: number) => Uint8Array): Uint8Array {
  const bytes = new Uint8Array(count * 12)
  for (let index = 0; index < count; index++) bytes.set(frame(index), index * 12)
  return bytes
}

/** A socket that connects and says nothing. */
export function silentSocket (port: number, localAddress?: string): Socket {
  const socket = connect({ port, host: '127.0.0.1', ...(localAddress === undefined ? {} : { localAddress }) })
  socket.on('error', () => {})
  return socket
}
