import { createSecretKey, type KeyObject } from 'node:crypto'
import { noise, type NoiseComponents } from '@chainsafe/libp2p-noise'
import { defaultCrypto, nodeCrypto } from '@chainsafe/libp2p-noise/crypto'
import type {
  AbortOptions,
  ConnectionEncrypter,
  MessageStream,
  MultiaddrConnection,
  PeerId,
  SecuredConnection
} from '@libp2p/interface'
import { Uint8ArrayList } from 'uint8arraylist'

/** What a connection became by its handshake: the transport below it, the secured connection above, and whose it is. */
export interface SecuredTransport {
  readonly transport: MultiaddrConnection
  readonly secured: MessageStream
  readonly remotePeer: PeerId
}

/** Hooks of a node around the handshakes of its connections. */
export interface EncrypterHooks {
  /** Called with each secured connection before anything is sent over it. */
  readonly onSecured?: (connection: SecuredTransport) => void
}

/** libp2p's Noise at less cost a message: key objects in place of key bytes, one write a short message, delayed window updates. */
export function connectionEncrypter ({ onSecured = () => {} }: EncrypterHooks = {}): (components: NoiseComponents) => ConnectionEncrypter {
  const create = noise({
    crypto: {
      ...defaultCrypto,
      chaCha20Poly1305Encrypt: (plaintext, nonce, data, key) =>
        nodeCrypto.chaCha20Poly1305Encrypt(joined(plaintext), nonce, data, prepared(key)),
      chaCha20Poly1305Decrypt: (ciphertext, nonce, data, key, target) =>
        nodeCrypto.chaCha20Poly1305Decrypt(joined(ciphertext), nonce, data, prepared(key), target)
    }
  })
  return (components) => {
    const encrypter = create(components)
    const finish = <Secured extends SecuredConnection> (transport: MessageStream, secured: Secured): Secured => {
      useQuietDecoder(secured.connection)
      delayWindowUpdates(transport, secured.connection)
      // libp2p hands the transport's own connection to its encrypter where no private network lies between.
      onSecured({ transport: transport as MultiaddrConnection, secured: secured.connection, remotePeer: secured.remotePeer })
      return secured
    }
    return {
      protocol: encrypter.protocol,
      secureInbound: async (connection, options) => finish(connection, await encrypter.secureInbound(sendWhole(connection), options)),
      secureOutbound: async (connection, options) => finish(connection, await encrypter.secureOutbound(sendWhole(connection), options))
    }
  }
}

const keys = new WeakMap<Uint8Array, KeyObject>()

/**
 * Returns a key as an object, because Node 24 takes ten times as long to begin a message with a key given as bytes. Noise passes the key
 * on to node:crypto, which takes either.
 */
function prepared (bytes: Uint8Array): Uint8Array {
  const key = keys.get(bytes) ?? createSecretKey(bytes)
  keys.set(bytes, key)
  return key as unknown as Uint8Array
}

/** A longer list of bytes costs more to copy than its pieces cost to handle one by one. */
const JOINED_UP_TO_BYTES = 16 * 1024

/** Returns a short list of bytes as one array, and a long list as it is. */
function joined<Bytes extends { readonly byteLength: number, readonly subarray: () => Uint8Array }> (bytes: Bytes): Bytes | Uint8Array {
  return bytes.byteLength <= JOINED_UP_TO_BYTES ? bytes.subarray() : bytes
}

/**
 * Makes a connection send each short message as one array. Otherwise each piece of a message would be a write to the socket of its own,
 * and a packet for which the other end wakes.
 */
function sendWhole<Connection extends MessageStream> (connection: Connection): Connection {
  const send = connection.send.bind(connection)
  connection.send = (data) => send(joined(data))
  return connection
}

/** The longest message of Noise: its length is written in two bytes. */
const MAX_LENGTH = 2 ** 16 - 1

/**
 * Reads a length of two bytes, the most significant first. Where fewer bytes are there, returns the greatest length: a decoder then waits
 * for more bytes, as it does for any message that is not complete.
 */
function decodeLength (bytes: Uint8Array | Uint8ArrayList): number {
  if (bytes.byteLength < 2) return MAX_LENGTH
  return bytes instanceof Uint8Array ? (bytes[0] as number) * 256 + (bytes[1] as number) : bytes.get(0) * 256 + bytes.get(1)
}

/**
 * Replaces the function that reads lengths in a secured connection's decoder. After every message Noise tries to read another length, and
 * its own function throws where none is there, which costs as much as to decrypt the message.
 */
function useQuietDecoder (connection: MessageStream & { readonly decoder?: { lengthDecoder?: unknown } }): void {
  const { decoder } = connection
  if (typeof decoder?.lengthDecoder === 'function') decoder.lengthDecoder = decodeLength
}

/**
 * The first four bytes of a yamux frame that is only a window update: version 0, type 1, no flags. It allows the other end to send as many
 * bytes as this end has read. A frame of type 1 with flags opens or closes a stream.
 */
const WINDOW_UPDATE = [0, 1, 0, 0]

/** The length of a yamux frame without data. */
const MUXER_HEADER_BYTES = 12

/** How long a window update may wait for a message to leave with: as long as a large model takes for its next token. */
const MAX_DELAY_MS = 50

/** Bytes that may come in while window updates wait: far below the smallest window, so that no sender runs out of window. */
const MAX_RECEIVED_BYTES = 64 * 1024

/**
 * Makes a secured connection keep window updates back until the next message and send both in one write, so that the other end, which may
 * be computing, wakes once. Window updates leave alone after MAX_DELAY_MS, and at once after MAX_RECEIVED_BYTES came in. The order of
 * frames stays as it is.
 */
function delayWindowUpdates (transport: MessageStream, secured: MessageStream): void {
  const [send, close] = [secured.send.bind(secured), secured.close.bind(secured)]
  const kept = new Uint8ArrayList()
  let receivedBytes = 0
  let timer: NodeJS.Timeout | undefined
  const takeKept = (): Uint8ArrayList => {
    clearTimeout(timer)
    timer = undefined
    const bytes = kept.sublist()
    kept.consume(bytes.byteLength)
    return bytes
  }
  const flush = (): void => {
    if (kept.byteLength === 0 || secured.status !== 'open') return
    try {
      send(takeKept())
    } catch {
      // The transport ended first, and tells its users so itself.
    }
  }
  // The transport's event is counted: a listener on the secured connection would make it deliver bytes before the muxer listens.
  transport.addEventListener('message', ({ data }) => { receivedBytes += data.byteLength })
  secured.send = (data) => {
    const mayWait = data instanceof Uint8Array && data.byteLength === MUXER_HEADER_BYTES &&
      WINDOW_UPDATE.every((byte, index) => data[index] === byte)
    if (mayWait && receivedBytes < MAX_RECEIVED_BYTES) {
      timer ??= setTimeout(flush, MAX_DELAY_MS)
      kept.append(data)
      return true
    }
    receivedBytes = 0
    return send(kept.byteLength === 0 ? data : new Uint8ArrayList(takeKept(), data))
  }
  secured.close = async (options?: AbortOptions) => {
    flush()
    await close(options)
  }
}
