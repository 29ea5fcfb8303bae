import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import type { Libp2p, PrivateKey } from '@libp2p/interface'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { createLibp2p, type Libp2pOptions } from 'libp2p'
import { connectionEncrypter } from '../../src/node/network/encryption.ts'
import { MAX_READ_BUFFER_BYTES, MAX_STREAM_WINDOW_BYTES } from '../../src/protocols/wire/constants.ts'

export interface TestNodeOptions {
  readonly privateKey: PrivateKey
  readonly listen?: boolean
  readonly connectionMonitor?: NonNullable<Libp2pOptions['connectionMonitor']>
}

/** A started libp2p node over TCP on loopback, with the stream settings that Midspan's nodes have. */
export async function startTestNode ({ privateKey, listen = true, connectionMonitor = {} }: TestNodeOptions): Promise<Libp2p> {
  return await createLibp2p({
    privateKey,
    addresses: { listen: listen ? ['/ip4/127.0.0.1/tcp/0'] : [] },
    transports: [tcp()],
    connectionEncrypters: [connectionEncrypter()],
    streamMuxers: [yamux({ streamOptions: { maxStreamWindowSize: MAX_STREAM_WINDOW_BYTES, maxReadBufferLength: MAX_READ_BUFFER_BYTES } })],
    connectionMonitor: { abortConnectionOnPingFailure: false, ...connectionMonitor },
    services: { identify: identify(), ping: ping() }
  })
}
