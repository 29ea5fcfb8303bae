import { createSecretKey, type KeyObject } from 'node:crypto'
import { noise, type NoiseComponents } from '@chainsafe/libp2p-noise'
import { defaultCrypto, nodeCrypto } from '@chainsafe/libp2p-noise/crypto'
import type { AbortOptions, ConnectionEncrypter, MessageStream } from '@libp2p/interface'
import { Uint8ArrayList } from 'uint8arraylist'

/** libp2p's Noise, at less cost a message. */
export function connectionEncrypter (): (components: NoiseComponents) => ConnectionEncrypter {
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
    return {
      protocol: encrypter.protocol,
      secureInbound: async (connection, options) =>
        gathered(connection, withQuietDecoder(await encrypter.secureInbound(inOnePiece(connection), options))),
      secureOutbound: async (connection, options) =>
        gathered(connection, withQuietDecoder(await encrypter.secureOutbound(inOnePiece(connection), options)))
    }
  }
}

const keys = new WeakMap<Uint8Array, KeyObject>()

/**
 * The same key as an object: Node 24 takes ten times as long to begin a message with a key given as bytes. Noise passes it on to
 * node:crypto, which takes either.
 */
function prepared (bytes: Uint8Array): Uint8Array {
  const key = keys.get(bytes) ?? createSecretKey(bytes)
  keys.set(bytes, key)
  return key as unknown as Uint8Array
}

/** Larger lists cost more to copy than their pieces to handle one by one. */
const JOINED_UP_TO_BYTES = 16 * 1024

/** A short list of bytes as what it makes up. */
function joined<Bytes extends { readonly byteLength: number, readonly subarray: () => Uint8Array }> (bytes: Bytes): Bytes | Uint8Array {
  return bytes.byteLength <= JOINED_UP_TO_BYTES ? bytes.subarray() : bytes
}

/**
 * Has a connection send short messages whole: each of their pieces would be a write to the socket of its own, and a packet that the other
 * end wakes for.
 */
function inOnePiece<Connection extends MessageStream> (connection: Connection): Connection {
  const send = connection.send.bind(connection)
  connection.send = (data) => send(joined(data))
  return connection
}

/** The longest message that a length of two bytes can tell of. */
const MAX_LENGTH = 2 ** 16 - 1

/** A length of two bytes, most significant first. Where there are fewer, the longest: no message of that length is here either. */
function decodeLength (bytes: Uint8Array | Uint8ArrayList): number {
  if (bytes.byteLength < 2) return MAX_LENGTH
  return bytes instanceof Uint8Array ? (bytes[0] as number) * 256 + (bytes[1] as number) : bytes.get(0) * 256 + bytes.get(1)
}

/**
 * Noise looks for a length after every message, and learns from an error that there is none: to throw one costs as much as to decrypt the
 * message.
 */
function withQuietDecoder<Secured extends { readonly connection: MessageStream }> (secured: Secured): Secured {
  const { decoder } = secured.connection as MessageStream & { readonly decoder?: { lengthDecoder?: unknown } }
  if (typeof decoder?.lengthDecoder === 'function') decoder.lengthDecoder = decodeLength
  return secured
}

/**
 * How a yamux frame begins (version, type, two bytes of flags) that answers a message: it gives back what the message took of the sender's
 * window, and says nothing else. Frames of this type that open or close a stream have flags.
 */
const WINDOW_UPDATE = [0, 1, 0, 0]

/** Such a frame has no data after its header. */
const MUXER_HEADER_BYTES = 12

/** How long such a frame may wait for a message to go with: that of a large model's next token. */
const MOST_DELAY_MS = 50

/** What may come in meanwhile: below the least window by far, so that no sender waits for what is kept. */
const MOST_RECEIVED_BYTES = 64 * 1024

/**
 * Has a secured connection keep what gives back a window for the message that follows it: the other end need not wake for it, least of
 * all while it computes. Where none follows soon, or much comes in, it leaves alone. Nothing overtakes anything.
 */
function gathered<Secured extends { readonly connection: MessageStream }> (raw: MessageStream, secured: Secured): Secured {
  const { connection } = secured
  const [send, close] = [connection.send.bind(connection), connection.close.bind(connection)]
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
    if (kept.byteLength === 0 || connection.status !== 'open') return
    try {
      send(takeKept())
    } catch {
      // The connection under it ended first, and says so itself.
    }
  }
  // Not of the secured connection: with a listener before the muxer's, it would not keep what comes before that one.
  raw.addEventListener('message', ({ data }) => { receivedBytes += data.byteLength })
  connection.send = (data) => {
    const mayWait = data instanceof Uint8Array && data.byteLength === MUXER_HEADER_BYTES &&
      WINDOW_UPDATE.every((byte, index) => data[index] === byte)
    if (mayWait && receivedBytes < MOST_RECEIVED_BYTES) {
      timer ??= setTimeout(flush, MOST_DELAY_MS)
      kept.append(data)
      return true
    }
    receivedBytes = 0
    return send(kept.byteLength === 0 ? data : new Uint8ArrayList(takeKept(), data))
  }
  connection.close = async (options?: AbortOptions) => {
    flush()
    await close(options)
  }
  return secured
}
