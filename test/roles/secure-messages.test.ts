import { fromBinary, toBinary } from '@bufbuild/protobuf'
import { generateKeyPair } from '@libp2p/crypto/keys'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { ClientMessageSchema, fromClient, fromServer, ServerMessageSchema } from '../../src/protocols/train/messages.ts'
import { isSignedByPeer, replyMessage, replyOf, requestMessage, requestOf, signerOf } from '../../src/roles/secure-messages.ts'
import type { SecureReply, SecureRequest } from '../../src/roles/training/aggregation/secure/messages.ts'
import { float32, tensor } from '../../src/tensor.ts'

const place = { round: 7, attempt: 2 }
const peer = fc.string({ maxLength: 60 })
const bytes = fc.uint8Array({ maxLength: 70 })
const keys = fc.record({ peer, sealingKey: bytes, maskingKey: bytes, signature: bytes })
const box = fc.record({ peer, box: bytes })
const list = <T>(of: fc.Arbitrary<T>): fc.Arbitrary<T[]> => fc.array(of, { maxLength: 4 })

const request: fc.Arbitrary<SecureRequest> = fc.oneof(
  fc.record({ step: fc.constant('advertise' as const), values: fc.nat() }),
  fc.record({ step: fc.constant('share' as const), roster: list(keys) }),
  fc.record({ step: fc.constant('mask' as const), boxes: list(box) }),
  fc.record({ step: fc.constant('confirm' as const), survivors: list(peer) }),
  fc.record({ step: fc.constant('reveal' as const), confirmations: list(fc.record({ peer, signature: bytes })) })
)

const reply: fc.Arbitrary<SecureReply> = fc.oneof(
  fc.record({ step: fc.constant('advertise' as const), advertisement: keys }),
  fc.record({ step: fc.constant('share' as const), boxes: list(box) }),
  fc.record({ step: fc.constant('mask' as const), words: fc.uint32Array({ minLength: 6, maxLength: 6 }) }),
  fc.record({ step: fc.constant('confirm' as const), signature: bytes }),
  fc.record({
    step: fc.constant('reveal' as const),
    shares: list(fc.record({ peer, kind: fc.constantFrom('seed' as const, 'key' as const), share: bytes }))
  })
)

/** Without what protobuf adds to its messages. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value, (key, field: unknown) => key === '$typeName' ? undefined : field))

it('carries requests and replies as they are', () => {
  fc.assert(fc.property(request, (sent) => {
    const { kind } = fromBinary(ServerMessageSchema, toBinary(ServerMessageSchema, fromServer(requestMessage(place, sent))))
    expect(kind).toMatchObject({ case: 'secureRequest', value: place })
    expect(plain(requestOf(kind.value as Parameters<typeof requestOf>[0]))).toEqual(plain(sent))
  }))
  fc.assert(fc.property(reply, (sent) => {
    const [message, tensors] = replyMessage(place, sent)
    const { kind } = fromBinary(ClientMessageSchema, toBinary(ClientMessageSchema, fromClient(message)))
    expect(kind).toMatchObject({ case: 'secureReply', value: place })
    expect(plain(replyOf(kind.value as Parameters<typeof replyOf>[0], tensors, 'somebody', 3)))
      .toEqual(plain(sent.step === 'advertise' ? { ...sent, advertisement: { ...sent.advertisement, peer: 'somebody' } } : sent))
  }))
})

it('refuses replies that are none, or have other tensors than they should', () => {
  const bad = expect.objectContaining({ code: 'E_BAD_MESSAGE' }) as unknown
  const [masked, [words]] = replyMessage(place, { step: 'mask', words: new Uint32Array(6) })
  const { value } = fromClient(masked).kind as { value: Parameters<typeof replyOf>[0] }
  for (const tensors of [[], [words!, words!], [tensor('uint32', [2, 2], new Uint32Array(4))], [float32([3, 2], [1, 2, 3, 4, 5, 6])]])
    expect(() => replyOf(value, tensors, 'somebody', 3)).toThrow(bad)
  expect(() => replyOf({ ...value, step: { case: undefined } }, [], 'somebody', 3)).toThrow(bad)
  expect(() => requestOf({ ...value, $typeName: 'midspan.train.SecureRequest', step: { case: undefined } })).toThrow(bad)
})

it('signs with a peer\'s identity, and takes no other signature for it', async () => {
  const [key, other] = [await generateKeyPair('Ed25519'), await generateKeyPair('Ed25519')]
  const [signer, stranger] = [signerOf(key), signerOf(other)]
  const signed = Uint8Array.of(1, 2, 3)
  const signature = await signer.sign(signed)
  expect(await isSignedByPeer(signer.peer, signed, signature)).toBe(true)
  expect(await isSignedByPeer(signer.peer, Uint8Array.of(1, 2), signature)).toBe(false)
  expect(await isSignedByPeer(stranger.peer, signed, signature)).toBe(false)
  expect(await isSignedByPeer('nobody', signed, signature)).toBe(false)
})
