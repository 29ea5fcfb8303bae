import { createHash, randomBytes } from 'node:crypto'
import { create, type Message } from '@bufbuild/protobuf'
import type { GenMessage } from '@bufbuild/protobuf/codegenv2'
import { CipherSuite, DhkemX25519HkdfSha256, ExportOnly, HkdfSha256 } from '@hpke/core'
import type { PeerId, PrivateKey, Stream } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { MAX_HANDSHAKE_MESSAGE_BYTES } from './constants.ts'
import { ControlStream } from './control.ts'
import { CharterMismatchError, HandshakeError } from './errors.ts'
import type { StreamSink } from './sink.ts'
import type { StreamSource } from './source.ts'
import { ConfirmSchema, type Offer, OfferSchema, OpenSchema } from './wire_pb.ts'

/** Who agrees, and on what. */
export interface Parties {
  readonly protocol: string
  readonly identity: PrivateKey
  readonly remotePeer: PeerId
  /** SHA-256 of the charter, 32 bytes. */
  readonly charter: Uint8Array
}

/** A session's id (16 bytes) and its two secrets (32 bytes each): zero them once they have been used. */
export interface Agreement {
  readonly sessionId: Uint8Array
  readonly c2s: Uint8Array
  readonly s2c: Uint8Array
}

/** The stream on which the peers agree. */
export interface Medium {
  readonly stream: Stream
  readonly source: StreamSource
  readonly sink: StreamSink
}

const SESSION_ID_BYTES = 16
const NONCE_BYTES = 32
const X25519_KEY_BYTES = 32
const SECRET_BYTES = 32

/** RFC 9180: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, export only. The records have a cipher of their own. */
const suite = new CipherSuite({ kem: new DhkemX25519HkdfSha256(), kdf: new HkdfSha256(), aead: new ExportOnly() })

/**
 * The client's side: it asks, checks that the server it expects has signed the offer, and encapsulates secrets to the offered key.
 * Throws HandshakeError where the server is not who it should be, RemoteError where it refuses.
 */
export async function agreeAsClient (medium: Medium, parties: Parties, signal: AbortSignal): Promise<Agreement> {
  const nonce = randomBytes(NONCE_BYTES)
  const opening = controlOf(medium, OpenSchema, OfferSchema)
  await opening.write(create(OpenSchema, { protocol: parties.protocol, nonce, charter: parties.charter }), undefined, signal)
  const { message: offer } = await opening.read(signal)
  checkLength('session id', offer.session, SESSION_ID_BYTES)
  checkLength('key', offer.kemKey, X25519_KEY_BYTES)
  const transcript = transcriptOf(parties, peerIdFromPrivateKey(parties.identity), parties.remotePeer, nonce, offer)
  await checkSignature(parties.remotePeer, offerStatement(transcript), offer.signature)
  const sender = await attempt('the offered key cannot be used', async () => await suite.createSenderContext({
    recipientPublicKey: await suite.kem.deserializePublicKey(offer.kemKey), info: transcript
  }))
  const enc = new Uint8Array(sender.enc)
  const signature = await parties.identity.sign(confirmStatement(transcript, enc))
  await controlOf(medium, ConfirmSchema, OfferSchema).write(create(ConfirmSchema, { enc, signature }), undefined, signal)
  return await exportSecrets(sender, offer.session)
}

/**
 * The server's side: it offers a key made for this session alone, and checks that the client it expects has signed the answer.
 * Throws HandshakeError or CharterMismatchError.
 */
export async function agreeAsServer (medium: Medium, parties: Parties, signal: AbortSignal): Promise<Agreement> {
  const opening = controlOf(medium, OfferSchema, OpenSchema)
  const { message: open } = await opening.read(signal)
  checkLength('nonce', open.nonce, NONCE_BYTES)
  if (open.protocol !== parties.protocol) throw new HandshakeError('the client speaks another protocol')
  if (Buffer.compare(open.charter, parties.charter) !== 0) throw new CharterMismatchError()
  const keys = await suite.kem.generateKeyPair()
  const offer = create(OfferSchema, {
    session: randomBytes(SESSION_ID_BYTES),
    kemKey: new Uint8Array(await suite.kem.serializePublicKey(keys.publicKey))
  })
  const transcript = transcriptOf(parties, parties.remotePeer, peerIdFromPrivateKey(parties.identity), open.nonce, offer)
  offer.signature = await parties.identity.sign(offerStatement(transcript))
  await opening.write(offer, undefined, signal)
  const { message: confirm } = await controlOf(medium, OfferSchema, ConfirmSchema).read(signal)
  checkLength('encapsulated key', confirm.enc, X25519_KEY_BYTES)
  await checkSignature(parties.remotePeer, confirmStatement(transcript, confirm.enc), confirm.signature)
  const recipient = await attempt('the encapsulated key cannot be used', async () => await suite.createRecipientContext({
    recipientKey: keys.privateKey, enc: confirm.enc, info: transcript
  }))
  return await exportSecrets(recipient, offer.session)
}

function controlOf<Out extends Message, In extends Message> (
  { stream, source, sink }: Medium,
  outgoing: GenMessage<Out>,
  incoming: GenMessage<In>
): ControlStream<Out, In> {
  return new ControlStream(stream, { outgoing, incoming, maxMessageBytes: MAX_HANDSHAKE_MESSAGE_BYTES }, source, sink)
}

/** SHA-256 of everything the peers must agree on; no part can be moved into another, since JSON keeps them apart. */
function transcriptOf (parties: Parties, client: PeerId, server: PeerId, nonce: Uint8Array, offer: Offer): Uint8Array<ArrayBuffer> {
  const parts = [
    'midspan/wire/1 transcript',
    parties.protocol,
    hex(parties.charter),
    client.toString(),
    server.toString(),
    hex(offer.session),
    hex(nonce),
    hex(offer.kemKey)
  ]
  return new Uint8Array(createHash('sha256').update(JSON.stringify(parts)).digest())
}

function offerStatement (transcript: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.from('midspan/wire/1 offer\0'), transcript])
}

function confirmStatement (transcript: Uint8Array, enc: Uint8Array): Uint8Array {
  return Buffer.concat([Buffer.from('midspan/wire/1 confirm\0'), transcript, enc])
}

async function checkSignature (peer: PeerId, statement: Uint8Array, signature: Uint8Array): Promise<void> {
  if (peer.publicKey === undefined) throw new HandshakeError(`the peer id ${peer.toString()} carries no public key`)
  const { publicKey } = peer
  if (!await attempt('the signature cannot be checked', async () => await publicKey.verify(statement, signature))) {
    throw new HandshakeError(`what was signed was not signed by ${peer.toString()}`)
  }
}

async function exportSecrets (
  context: { export: (label: BufferSource, bytes: number) => Promise<ArrayBuffer> },
  sessionId: Uint8Array
): Promise<Agreement> {
  const secret = async (direction: string): Promise<Uint8Array> =>
    new Uint8Array(await context.export(new TextEncoder().encode(`midspan/wire/1 ${direction}`), SECRET_BYTES))
  return { sessionId: Uint8Array.from(sessionId), c2s: await secret('c2s'), s2c: await secret('s2c') }
}

function checkLength (what: string, bytes: Uint8Array, length: number): void {
  if (bytes.byteLength !== length) throw new HandshakeError(`a ${what} of ${bytes.byteLength} bytes instead of ${length}`)
}

async function attempt<T> (failing: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    throw new HandshakeError(failing, error)
  }
}

function hex (bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
