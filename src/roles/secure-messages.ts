import type { MessageInitShape } from '@bufbuild/protobuf'
import type { PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey, peerIdFromString } from '@libp2p/peer-id'
import type { fromClient, fromServer } from '../protocols/train/messages.ts'
import type { SecureReply as ReplyMessage, SecureReplySchema, SecureRequest as RequestMessage } from '../protocols/train/train_pb.ts'
import { BadMessageError } from '../protocols/wire/errors.ts'
import { expectTensor } from '../protocols/wire/hidden-states.ts'
import { tensor, type Tensor } from '../tensor.ts'
import type { Advertisement, SecureReply, SecureRequest, Signer } from './training/aggregation/secure/messages.ts'

/** The attempt that a step of a secure sum belongs to. */
export interface SecurePlace {
  readonly round: number
  readonly attempt: number
}

/** Returns a peer's identity as what signs in a secure sum. */
export function signerOf (identity: PrivateKey): Signer {
  return { peer: peerIdFromPrivateKey(identity).toString(), sign: async (bytes) => await identity.sign(bytes) }
}

/** Whether a peer signed these bytes with its identity. */
export async function isSignedByPeer (peer: string, bytes: Uint8Array, signature: Uint8Array): Promise<boolean> {
  try {
    const { publicKey } = peerIdFromString(peer)
    return publicKey?.type === 'Ed25519' && await publicKey.verify(bytes, signature)
  } catch {
    return false // a peer id that does not decode has no key
  }
}

/** Returns a request as a server's message. */
export function requestMessage (place: SecurePlace, request: SecureRequest): Parameters<typeof fromServer>[0] {
  return { case: 'secureRequest', value: { ...place, step: requestStep(request) } }
}

function requestStep (request: SecureRequest) {
  switch (request.step) {
    case 'advertise': return { case: 'advertise' as const, value: { values: request.values } }
    case 'share': return { case: 'share' as const, value: { keys: request.roster.map((keys) => ({ ...keys })) } }
    case 'mask': return { case: 'mask' as const, value: { boxes: request.boxes.map((box) => ({ ...box })) } }
    case 'confirm': return { case: 'confirm' as const, value: { peers: [...request.survivors] } }
    case 'reveal': return { case: 'reveal' as const, value: { signatures: request.confirmations.map((each) => ({ ...each })) } }
  }
}

/** Returns what a server asks for. Throws BadMessageError for a step that there is not. */
export function requestOf ({ step }: RequestMessage): SecureRequest {
  switch (step.case) {
    case 'advertise': return { step: 'advertise', values: step.value.values }
    case 'share': return { step: 'share', roster: step.value.keys }
    case 'mask': return { step: 'mask', boxes: step.value.boxes }
    case 'confirm': return { step: 'confirm', survivors: step.value.peers }
    case 'reveal': return { step: 'reveal', confirmations: step.value.signatures }
    default: throw new BadMessageError('the server asks for no known step of a secure sum')
  }
}

/** Returns a reply as a client's message, and the tensors beside it. */
export function replyMessage (
  { round, attempt }: SecurePlace,
  reply: SecureReply
): [kind: Parameters<typeof fromClient>[0], tensors: Tensor[]] {
  return [
    { case: 'secureReply', value: { round, attempt, step: replyStep(reply) } },
    reply.step === 'mask' ? [tensor('uint32', [reply.words.length / 2, 2], reply.words)] : []
  ]
}

function replyStep (reply: SecureReply): NonNullable<MessageInitShape<typeof SecureReplySchema>['step']> {
  switch (reply.step) {
    case 'advertise': return { case: 'advertise', value: { ...reply.advertisement } }
    case 'share': return { case: 'share', value: { boxes: reply.boxes.map((box) => ({ ...box })) } }
    case 'mask': return { case: 'mask', value: {} }
    case 'confirm': return { case: 'confirm', value: { signature: reply.signature } }
    case 'reveal': return {
      case: 'reveal',
      value: { shares: reply.shares.map(({ peer, kind, share }) => ({ peer, ofKey: kind === 'key', share })) }
    }
  }
}

/** Returns what a client answered to a step for vectors of `values`. Throws BadMessageError. */
export function replyOf ({ step }: ReplyMessage, tensors: readonly Tensor[], peer: string, values: number): SecureReply {
  if (tensors.length !== (step.case === 'mask' ? 1 : 0)) throw new BadMessageError(`${tensors.length} tensors came with a step of a secure sum`)
  switch (step.case) {
    case 'advertise': {
      const { sealingKey, maskingKey, signature } = step.value
      const advertisement: Advertisement = { peer, sealingKey, maskingKey, signature }
      return { step: 'advertise', advertisement }
    }
    case 'share': return { step: 'share', boxes: step.value.boxes }
    case 'mask': {
      const [masked] = tensors
      expectTensor('the masked values', masked, 'uint32', [values, 2])
      return { step: 'mask', words: masked.data as Uint32Array }
    }
    case 'confirm': return { step: 'confirm', signature: step.value.signature }
    case 'reveal': return {
      step: 'reveal',
      shares: step.value.shares.map(({ peer: of, ofKey, share }) => ({ peer: of, kind: ofKey ? 'key' : 'seed', share }))
    }
    default: throw new BadMessageError('the client answered no known step of a secure sum')
  }
}
